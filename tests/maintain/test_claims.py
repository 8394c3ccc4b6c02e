"""`claims`: runs what is missing, ladders first, and says each verdict with its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.maintain.__main__ import main
from ftlab.maintain.claims import BEGIN, END, lines
from ftlab.records.claims import _PROTOCOL, ClaimsProtocol, read_claims, tried_claims
from ftlab.records.store import RunStore
from tests.records.test_claims import run_sweep, small


def command(folder: Path, protocol: ClaimsProtocol, *more: str) -> list[str]:
    file = folder / "protocol.json"
    file.write_bytes(_PROTOCOL.dump_json(protocol))
    return ["claims", "--protocol", str(file), "--runs-dir", str(folder / "runs"), *more]


def test_verdicts_are_said_and_written_with_the_numbers_they_follow_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = small()
    for id in "rates", "scores":
        run_sweep(tmp_path / "runs", protocol, id)
    out, document = tmp_path / "found.json", tmp_path / "evidence.md"
    document.write_text(f"a\n{BEGIN}\n{END}\nz\n")
    asked = ["--show", "--write", str(out), "--document", str(document), "--commit", "abc"]
    assert main(command(tmp_path, protocol, *asked)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("LoRA learns less: ")
    assert said[1].startswith("  more loss: 0.17 (")
    assert said[1].endswith("; the claim is 0 or more")
    record = read_claims(out)
    assert record is not None
    assert record.commit == "abc"
    text = document.read_text()
    assert "| It does. [A paper](https://a.b) | more loss: 0.17 (" in text
    assert "Best learning rates: lora 3e-3." in text


def test_what_is_not_measured_yet_is_said_and_the_status_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, small(), "--show")) == 1
    assert capsys.readouterr().out == "LoRA learns less: not measured yet.\n"


def test_a_method_that_diverged_at_its_best_rate_is_named() -> None:
    record = replace(tried_claims(small(), []), diverged=("LoRA lr=0.003",))
    assert lines(record)[-1] == "Left out, since a run diverged: LoRA lr=0.003."


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("in_this_process")
def test_ladders_are_trained_first_and_nothing_twice(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = small()
    sweeps = tuple(
        replace(sweep, steps=1, eval_examples=2, answers=False, seeds=(0,))
        for sweep in protocol.sweeps
    )
    (claim,) = protocol.claims
    claims = (replace(claim, estimates=claim.estimates[:1]),)
    protocol = replace(protocol, sweeps=sweeps, claims=claims, model=str(tiny_model))
    for _ in range(2):
        assert main(command(tmp_path, protocol)) == 0
        assert "LoRA learns less: " in capsys.readouterr().out
    runs = [run.spec for run in RunStore(tmp_path / "runs").runs() if not run.spec.is_base]
    assert [spec.method for spec in runs] == ["lora"] * 4 + ["full"]
    assert runs[3].learning_rate in {spec.learning_rate for spec in runs[:3]}
