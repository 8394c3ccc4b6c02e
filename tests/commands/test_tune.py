"""`tune`: real runs on a tiny model, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.records.result import RunResult
from ftlab.records.run import run_directories
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from ftlab.training.run import RunRecord, execute

SMALL = (
    "--steps", "4", "--batch-size", "2", "--max-length", "128", "--eval-examples", "4",
    "--dtype-policy", "fp32", "--device", "cpu",
)  # fmt: skip


def work_here(folder: Path) -> None:
    """Does in this process what the dispatcher would have workers do."""
    for directory in run_directories(folder):
        if directory.is_waiting:
            record = RunRecord()
            with redirect_stdout(sys.stderr):
                execute(directory.spec(), directory, record, lambda event: None)
            directory.write_result(record.result("done"))


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[list[float | None]]:
    """The learning rates of the runs that are predicted together, `None` for a base."""
    rates: list[list[float | None]] = []

    def noted(
        request: SweepRequest, specs: Sequence[RunSpec], *beside: Any
    ) -> AbstractContextManager[None]:
        assert {variant.learning_rate for variant in request.variants} == {
            spec.learning_rate for spec in specs if not spec.is_base
        }
        rates.append([spec.learning_rate for spec in specs])
        return nullcontext()

    monkeypatch.setattr("ftlab.commands.tune.predicted_meanwhile", noted)
    return rates


@pytest.fixture
def tune(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    predicted: list[list[float | None]],
) -> list[str]:  # fmt: skip
    monkeypatch.setattr("ftlab.commands.tune.start_dispatcher", work_here)
    where = ["--model", str(tiny_model), "--task", str(task_file), "--runs-dir", str(tmp_path)]
    return ["tune", "--method", "lora", *where, *SMALL]


def test_rates_are_run_on_the_tuning_split_and_one_is_suggested(
    tune: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("ftlab.commands.tune.EXTENSIONS", 0)
    assert main([*tune, "--rates", "1e-4,3e-2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    losses = {point["learning_rate"]: point["loss"] for point in found["points"]}
    assert losses[3e-2] < losses[1e-4] < found["base_loss"]
    assert found["suggested"] == 3e-2
    runs = RunStore(tmp_path).runs()
    assert len({run.spec.sweep_id for run in runs}) == 1
    assert sum(run.spec.is_base for run in runs) == 1
    assert {run.spec.settings.eval_split for run in runs} == {"tuning"}
    assert {run.result.measures.score_after for run in runs if run.result} == {None}
    page = tmp_path / "rates.md"
    assert main([*tune, "--show", "--write", str(page)]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if "█" in line}
    assert [rate for rate, line in lines.items() if "← suggested" in line] == ["0.03"]
    for rate, loss in {"1e-4": losses[1e-4], "0.03": losses[3e-2]}.items():
        assert lines[rate].count("█") == round(40 * loss / found["base_loss"])
        assert lines[rate].split()[1] == f"{loss:.3f}"
    assert lines["untouched"].count("█") == 40
    assert f"| LoRA | {found['base_loss']:.3f} | 1e-4: {losses[1e-4]:.3f}" in page.read_text()
    assert len(RunStore(tmp_path).runs()) == len(runs)


def test_without_rates_the_ladder_stands_around_the_methods_own_for_the_models_size(
    tune: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("ftlab.commands.tune.EXTENSIONS", 0)
    page = tmp_path / "rates.md"
    assert main([*tune, "--json", "--write", str(page)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    rates = [point["learning_rate"] for point in found["points"]]
    assert rates == [3.7e-3, 1.1e-2, 3.3e-2]  # 1.1e-2 is 2e-3 * (576 / 64)^0.781
    assert found["default"] == 1.1e-2
    assert f"--model {tune[tune.index('--model') + 1]}" in page.read_text()


def test_a_ladder_goes_on_twice_at_most_and_a_method_without_a_rate_ends_with_status_1(
    tune: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], predicted: list[list[float | None]],
) -> None:  # fmt: skip
    def all_diverge(folder: Path) -> None:
        for directory in run_directories(folder):
            if directory.is_waiting:
                directory.write_result(RunResult("diverged", "The loss rose."))

    monkeypatch.setattr("ftlab.commands.tune.start_dispatcher", all_diverge)
    assert main([*tune, "--from", "1e-2", "--to", "1e-1", "--points", "2"]) == 1
    rates = sorted(run.spec.learning_rate or 0 for run in RunStore(tmp_path).runs())
    assert rates == [0, 1e-4, 1e-3, 1e-2, 1e-1]
    out = capsys.readouterr().out
    assert "Every run diverged, also at 1e-4" in out
    assert out.count("The loss rose.") == 1
    assert predicted == [[None, 1e-2, 1e-1], [1e-3], [1e-4]]
