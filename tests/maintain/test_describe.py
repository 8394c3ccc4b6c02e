"""docs/methods.md is what the registry and the recorded sweep say."""

from __future__ import annotations

import pytest

from ftlab.maintain.__main__ import main
from ftlab.maintain.describe import BEGIN, END, methods_text, recorded_costs
from ftlab.methods.registry import METHODS
from ftlab.records.metrics import METRICS
from tests.documents import ROOT

DOCUMENT = ROOT / "docs" / "methods.md"


def test_the_document_is_what_the_command_writes() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    made = text.split(BEGIN)[1].split(END)[0].strip()
    assert made == methods_text(), "write it by `python -m ftlab.maintain describe --write`"


def test_every_method_is_described_and_named_with_its_paper() -> None:
    text = methods_text()
    for method in METHODS.values():
        part = text.split(f"### {method.label}\n")[1].split("\n### ")[0]
        for said in (method.summary, method.paper.url, method.good_for, method.weak_at):
            assert said in part


def test_costs_are_the_means_of_the_recorded_sweep() -> None:
    costs, provenance = recorded_costs()
    assert "--methods full,last_layers,lora" in provenance.command
    (row,) = (line for line in methods_text().splitlines() if line.startswith("| LoRA |"))
    for key in ("trainable_params", "net_peak_memory_bytes", "score_after"):
        assert f"| {METRICS[key].text(float(costs.loc['lora', key]))} |" in row


def test_without_write_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe"]) == 0
    assert "### LoRA\n" in capsys.readouterr().out
