"""The note of a pane that answers in another precision than in training."""

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


BASE = base_source()
FOREIGN = replace(LORA, name="adapter:theirs")  # its training precision is unknown


@pytest.mark.parametrize(
    ("source", "precision", "note"),
    [
        *(
            (source, precision, "")
            for source in (base_source(), FOREIGN)
            for precision in PRECISIONS
        ),
        (LORA, "bf16", ""),
        (QLORA, "nf4", ""),
        (FULL, "bf16", ""),
        (PART, "bf16", ""),
        (PART, "nf4", ""),  # it cannot answer there; its error says so
        (replace(LORA, dtype_policy="fp32"), "fp32", ""),
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
def test_a_note_names_a_different_precision(
    source: PaneSource, precision: Precision, note: str
) -> None:
    found = note_on(source, precision)
    assert found.startswith(note)
    assert bool(found) == bool(note)
