"""Real workers: the base is measured once, and the run before it gets its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs import run_worker
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import enqueue_sweep
from ftlab.records.base_runs import WAITS
from ftlab.records.kept_bases import MEASURED_IN
from ftlab.records.removal import remove_runs
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from tests.training.one_run import request

_SAME = ("eval_loss_before", "score_before", "general_loss_before", "total_params")


def swept(asked: Any, folder: Path) -> list[RunDirectory]:
    """A finished sweep: the base run, then the trained ones."""
    specs = enqueue_sweep(asked, folder)
    Dispatcher(folder).work()
    return [RunDirectory(folder / spec.run_id) for spec in specs]


def result_of(run: RunDirectory) -> RunResult:
    result = run.result()
    assert result is not None
    assert result.status == "done", result.reason
    return result


def test_a_worker_passes_the_base_runs_numbers_on_before_it_writes_its_result_and_after(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, *_ = enqueue_sweep(request(tiny_model, task_file, "lora"), tmp_path)
    directory = RunDirectory(tmp_path / base.run_id)
    found = RunResult("done", environment={MEASURED_IN: "another"})
    order: list[str] = []

    def pass_on(given: RunDirectory, result: RunResult | None = None) -> None:
        assert given.run_id == base.run_id
        assert (result or found).status == "done"
        order.append("written" if given.result_file.exists() else "not written")

    for name in ("_log_to", "_set_environment"):
        monkeypatch.setattr(run_worker, name, lambda *given: None)
    monkeypatch.setattr(run_worker.kept_bases, "take", lambda *given: found)
    monkeypatch.setattr(run_worker.base_runs, "complete", pass_on)
    assert run_worker.main([str(directory.path)]) == 0
    assert order == ["not written", "written"], "a run may have ended between the two"
    assert directory.result() == found


@pytest.mark.slow
@pytest.mark.model
def test_the_base_is_measured_once_and_a_later_sweep_has_the_same_numbers(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    folder = tmp_path / "runs"
    asked = request(tiny_model, task_file, "lora", eval_every=2)
    base, lora = swept(asked, folder)
    later_base, later_lora = swept(asked, folder)

    first, kept, before, after = map(result_of, (base, later_base, lora, later_lora))
    assert [event["phase"] for event in base.metrics() if "phase" in event] == ["load", "evaluate"]
    assert not [event for event in later_base.metrics() if "phase" in event], "nothing was measured"
    assert kept.environment[MEASURED_IN] == base.run_id
    assert kept.measures == first.measures
    assert later_base.samples() == base.samples()

    for result in (before, after):
        assert WAITS not in result.notes
        assert [getattr(result.measures, name) for name in _SAME[:3]] == [
            getattr(first.measures, name) for name in _SAME[:3]
        ]
    assert before.measures.loss_change == after.measures.loss_change is not None
    assert lora.samples() == later_lora.samples()
    points = [event["step"] for event in lora.metrics() if event["event"] == "evaluation"]
    assert sorted(points) == [0, 2, 3]

    remove_runs(folder, [lora.run_id])
    assert not base.path.exists()
    assert result_of(later_base) == kept, "no other sweep's numbers are taken away"
