"""Logs to other programs: outside the timed steps, the same for all, and never a run's end."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from ftlab.basics.errors import FtlabError
from ftlab.methods.variant import Variant
from ftlab.settings.training import mlflow_folder, tensorboard_folder
from ftlab.training import trainer
from ftlab.training.run import RunRecord
from ftlab.training.trainer import CarefulTracker, make_trackers
from tests.training import one_run

STEPS = 3


class FakeTracker(TrainerCallback):
    """Keeps what it hears, and does what it is told to do at one event."""

    def __init__(self, at: str = "", does: Any = None) -> None:
        self.heard: list[str] = []
        self.logs: list[dict[str, Any]] = []
        self.names: set[tuple[Any, ...]] = set()
        self.meter: tuple[int, int] | None = None
        self._at, self._does = at, does

    def _hear(self, event: str, args: Any) -> None:
        self.heard.append(event)
        self.names.add((args.run_name, args.project, args.trackio_space_id))
        if event == self._at:
            self._does()

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        assert more["model"] is not None
        self._hear("begin", args)

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.logs.append(more["logs"])
        self._hear("log", args)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._hear("end", args)

    def on_step_begin(self, *args: Any, **more: Any) -> None:
        pytest.fail("a tracker heard of a step that is being timed")

    on_step_end = on_substep_end = on_optimizer_step = on_step_begin  # type: ignore[assignment]


def fail(sentence: str = "the disk\nis full") -> None:
    raise RuntimeError(sentence)


def do(
    model: Path,
    task_file: Path,
    folder: Path,
    trackers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    **variant: Any,
) -> tuple[RunRecord, str]:
    """One run of LoRA that logs to the trackers, which are made by the given functions."""
    monkeypatch.setattr(trainer, "_MAKERS", trackers)
    spec, record = one_run.spec_of(
        model, task_file, steps=STEPS, batch_size=2, eval_examples=1, eval_answers=False,
        warmup_steps=0, report_to=tuple(trackers),
    ), RunRecord()  # fmt: skip
    one_run.do(replace(spec, variant=Variant("lora", **variant)), folder, record)
    return record, spec.run_id


def test_a_tracker_hears_of_begin_every_logged_step_and_end(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTracker()
    makers = {"tensorboard": lambda folder: fake}
    record, run_id = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    assert fake.heard == ["begin", *["log"] * STEPS, "log", "end"]
    assert sum("loss" in logs for logs in fake.logs) == STEPS
    assert fake.names == {(run_id, "ftlab", None)}
    assert not any("ogg" in note for note in record.notes)


def test_slow_logging_is_outside_the_measured_time(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    paused = 0

    def pause() -> None:
        nonlocal paused
        paused += 1_000_000

    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks) + paused))
    monkeypatch.setattr(trainer, "time", clock)
    fakes = {event: FakeTracker(event, pause) for event in ("begin", "log")}
    makers = {"tensorboard": lambda _: fakes["begin"], "trackio": lambda _: fakes["log"]}
    record, _ = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    assert paused == 1_000_000 * (STEPS + 2)
    assert record.measures.train_seconds == STEPS  # a tick each


@pytest.mark.parametrize("event", ["begin", "log", "end"])
def test_an_error_of_a_tracker_is_a_note_and_the_run_goes_on(
    event: str, tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = FakeTracker(event, fail), FakeTracker()
    makers = {"tensorboard": lambda folder: broken, "trackio": lambda folder: sound}
    record, _ = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    sentence = "Logging to TensorBoard ended early: RuntimeError: the disk is full"
    assert sentence in record.notes
    assert broken.heard.count(event) == 1
    assert broken.heard[-1] == event
    assert sound.heard[-1] == "end"
    assert record.measures.eval_loss_after is not None


def test_a_tracker_that_cannot_be_made_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []

    def missing(folder: Path) -> TrainerCallback:
        raise ModuleNotFoundError("No module named 'trackio'")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_MAKERS", {"trackio": missing})
        assert make_trackers(("trackio",), tmp_path, notes.append) == []
    assert notes == ["Nothing is logged to trackio: ModuleNotFoundError: No module named 'trackio'"]


def test_a_run_that_fails_ends_its_logs(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTracker()
    with pytest.raises(FtlabError, match="not a number"):
        do(
            tiny_model, task_file, tmp_path, {"trackio": lambda folder: fake}, monkeypatch,
            learning_rate=1e30,
        )  # fmt: skip
    assert fake.heard[-1] == "end"


def test_an_end_is_heard_once() -> None:
    fake = FakeTracker()
    tracker = CarefulTracker("fake", fake, lambda note: None)
    arguments: Any = type("Arguments", (), dict.fromkeys(
        ("run_name", "project", "trackio_space_id")
    ))  # fmt: skip
    for _ in range(2):
        tracker.on_train_end(arguments, None, None)  # type: ignore[arg-type]
    assert fake.heard == ["end"]


def test_tensorboard_gets_the_losses_of_a_real_run(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed here")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    makers = {"tensorboard": trainer._tensorboard}
    record, run_id = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    events = EventAccumulator(str(tensorboard_folder(tmp_path / run_id)))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert len(losses) == STEPS
    assert losses[-1] == pytest.approx(record.measures.train_loss_last)


def test_mlflow_gets_the_losses_of_a_real_run(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed here")
    monkeypatch.chdir(tmp_path)
    makers = {"mlflow": trainer._mlflow}
    record, run_id = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    (run,) = mlflow.search_runs(experiment_names=["ftlab"], output_format="list")
    assert (run.info.run_name, run.info.status) == (run_id, "FINISHED")
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [each.step for each in losses] == [1, 2, 3]
    assert losses[-1].value == pytest.approx(record.measures.train_loss_last)
    assert mlflow.get_tracking_uri() == f"sqlite:///{mlflow_folder(tmp_path)}/mlflow.db"


FAKE_MLFLOW = """
import json, os
from types import SimpleNamespace

__version__ = "3.17.2"
utils = SimpleNamespace(validation=SimpleNamespace(
    MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
calls, waiting, run = [], [], None


def is_tracking_uri_set(): return True
def get_tracking_uri(): return calls[0][1]
def set_tracking_uri(uri): calls.append(["uri", uri])
def set_experiment(name): calls.append(["experiment", name])
def active_run(): return run
def start_run(run_name, nested):
    global run
    run = SimpleNamespace(info=SimpleNamespace(run_id=run_name))
    calls.append(["run", run_name])
def log_params(values, synchronous): assert not synchronous; waiting.append("params")
def log_metrics(metrics, step, synchronous):
    assert not synchronous and not waiting, "the last ones are not written yet"
    waiting.append([step, metrics.get("loss")])
def flush_async_logging():
    calls.extend(["written", each] for each in waiting)
    waiting.clear()
def end_run():
    global run
    run = None
    calls.append(["end", os.environ["MLFLOW_DISABLE_TELEMETRY"]])
"""
"""What transformers' callback calls of MLflow; metrics wait until they are flushed."""


def test_mlflow_has_written_each_loss_when_the_next_step_begins(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "mlflow.py").write_text(FAKE_MLFLOW)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    makers = {"mlflow": trainer._mlflow}
    record, run_id = do(tiny_model, task_file, tmp_path, makers, monkeypatch)
    fake = sys.modules.pop("mlflow")
    assert not any("ogg" in note for note in record.notes)
    assert fake.calls[:3] == [
        ["uri", f"sqlite:///{mlflow_folder(tmp_path)}/mlflow.db"],
        ["experiment", "ftlab"], ["run", run_id],
    ]  # fmt: skip
    written = [what for name, what in fake.calls if name == "written" and what != "params"]
    assert [step for step, loss in written if loss is not None] == [1, 2, 3]
    assert fake.calls[-1] == ["end", "true"]
