"""`prove`: a whole proof with real runs of a tiny model, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import build_parser, main
from ftlab.basics.errors import FtlabError
from ftlab.methods.capabilities import Capability, capabilities
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from tests.commands.test_tune import SMALL, work_here


@contextmanager
def nothing_predicted(*beside: Any) -> Iterator[None]:
    yield


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[SweepRequest]]:
    """The requests whose time was said beforehand."""
    asked: list[Sequence[SweepRequest]] = []

    def said(requests: Sequence[SweepRequest], store: RunStore) -> str:
        asked.append(requests)
        return "This takes about 9 min."

    monkeypatch.setattr("ftlab.commands.prove.said_beforehand", said)
    return asked


@pytest.fixture
def prove(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    times: list[Sequence[SweepRequest]],
) -> list[str]:  # fmt: skip
    def probed(variant: Variant) -> Capability:
        return replace(capabilities()["ia3"], id=variant.method)

    monkeypatch.chdir(tmp_path)
    for module in "prove", "tune":
        monkeypatch.setattr(f"ftlab.commands.{module}.start_dispatcher", work_here)
        monkeypatch.setattr(f"ftlab.commands.{module}.predicted_meanwhile", nothing_predicted)
    monkeypatch.setattr("ftlab.commands.prove.ask_probe", probed)
    monkeypatch.setattr("ftlab.commands.tune.EXTENSIONS", 0)
    where = ["--model", str(tiny_model), "--task", str(task_file), "--runs-dir", "runs"]
    return ["prove", *where, *SMALL, "--points", "2", "--seeds", "0,1"]


@pytest.mark.slow
@pytest.mark.model
def test_a_proof_tunes_compares_and_writes_its_sheet_and_does_nothing_twice(
    prove: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    times: list[Sequence[SweepRequest]],
) -> None:  # fmt: skip
    assert main([*prove, "--method", "ia3"]) == 0
    said = capsys.readouterr()
    assert "This takes about 9 min." in said.err
    assert "of as many" not in said.err
    assert "IA3 lr=" in said.out
    assert "against Full fine-tuning lr=" in said.out
    assert "evidence-ia3.html and evidence-ia3.json" in said.out
    runs = RunStore(tmp_path / "runs").runs()
    tuning = [run for run in runs if run.spec.settings.eval_split == "tuning"]
    rungs = [run.spec for run in tuning if not run.spec.is_base]
    assert len(rungs) == 6, "three ladders of two rates"
    assert {spec.seed for spec in rungs} == {0}, "a ladder needs one seed"
    compared = [run.spec for run in runs if run not in tuning and not run.spec.is_base]
    assert [spec.method for spec in compared] == ["ia3", "lora", "full"] * 2
    record = json.loads((tmp_path / "evidence-ia3.json").read_text())
    assert record["run_info"]["peft_config"]["peft_type"] == "IA3"
    assert str(tmp_path) not in json.dumps(record)
    assert "Learning rates" in (tmp_path / "evidence-ia3.html").read_text()
    assert [len(requests) for requests in times] == [2]

    assert main([*prove, "--method", "ia3"]) == 0
    assert len(RunStore(tmp_path / "runs").runs()) == len(runs)
    assert len(times) == 1, "nothing is left to do"


def test_the_peftconfig_itself_is_never_replaced(
    prove: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "mine.json"
    given.write_text('{"peft_type": "WAVEFT"}')
    for more in (["-o", "mine.html"], ["--json", str(given)]):
        assert main([*prove, "--peft-config", "mine.json:learning_rate=1e-3", *more]) == 2
        assert "is the PeftConfig itself" in capsys.readouterr().err
    assert given.read_text() == '{"peft_type": "WAVEFT"}'


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--method", "lorra"], "There is no method 'lorra'"),
        (["--peft-config", "none.json"], "none.json"),
        (["--method", "ia3", "--points", "1"], "give 2 or more"),
        (["--method", "ia3", "-o", "sheet.txt"], "is no name for a report"),
        (["--method", "ia3", "-o", "no/such/folder.html"], "no/such"),
    ],
)
def test_what_cannot_be_proved_or_written_is_said_before_anything_runs(
    prove: list[str], tmp_path: Path, given: list[str], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main([*prove, *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_method_that_does_not_train_ends_the_proof_with_its_reason(
    prove: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(variant: Variant) -> Capability:
        raise FtlabError(f"{variant.label} does not train on a tiny model.")

    monkeypatch.setattr("ftlab.commands.prove.ask_probe", refused)
    assert main([*prove, "--method", "ia3"]) == 2
    assert "IA3 does not train" in capsys.readouterr().err


def test_a_proof_compares_over_three_seeds_if_none_are_named() -> None:
    given = build_parser().parse_args(["prove", "--method", "ia3"])
    assert given.seeds == "0, 1, 2"
