"""What a pane says of arithmetic that is not that of the run that made it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftlab.playground.panes import PaneSource, base_source
from ftlab.playground.requests import note_on
from ftlab.settings.generation import PRECISIONS, Precision

LORA = PaneSource("a-run", "LoRA", model="bundled", is_adapter=True)
QLORA = replace(LORA, base_precision="nf4")
FULL = replace(LORA, is_adapter=False)
PART = replace(FULL, is_part=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_base_has_nothing_to_say(precision: Precision) -> None:
    assert note_on(base_source(), precision) == ""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_claimed_of_what_was_trained_elsewhere(precision: Precision) -> None:
    assert note_on(replace(LORA, name="adapter:theirs"), precision) == ""


@pytest.mark.parametrize(
    ("source", "precision"),
    [
        (LORA, "bf16"),
        (QLORA, "nf4"),
        (FULL, "bf16"),
        (PART, "bf16"),
        (PART, "nf4"),  # it cannot answer there, and says so itself
        (replace(LORA, dtype_policy="fp32"), "fp32"),
    ],
)
def test_nothing_is_said_where_the_arithmetic_is_the_runs_own(
    source: PaneSource, precision: Precision
) -> None:
    assert note_on(source, precision) == ""


@pytest.mark.parametrize(
    ("source", "precision", "note"),
    [
        (QLORA, "bf16", "Trained on a base held in nf4; answered here on the base in 16 bits, so"),
        (QLORA, "fp32", "Trained on a base held in nf4; answered here on the base in 32 bits, so"),
        (replace(LORA, base_precision="int8"), "nf4", "Trained on a base held in int8; answered"),
        (LORA, "nf4", "Trained on an unquantised base; answered here on the base in 4 bits (NF4)."),
        (FULL, "nf4", "A full fine-tuning has weights of its own; they answer here in 16 bits."),
        (LORA, "fp32", "Trained under the dtype policy bf16; answered here in 32 bits, so the"),
        (replace(PART, dtype_policy="fp32"), "bf16", "Trained under the dtype policy fp32; answe"),
        (replace(LORA, dtype_policy="mixed"), "bf16", "Trained under the dtype policy mixed; answ"),
    ],
)
def test_what_differs_is_said(source: PaneSource, precision: Precision, note: str) -> None:
    assert note_on(source, precision).startswith(note)
