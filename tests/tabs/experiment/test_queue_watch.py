"""One look at the queue serves every page that asks at about the same time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.basics.log import app_log
from ftlab.jobs.control import request_cancel
from ftlab.records.removal import remove_runs
from ftlab.records.store import RunStore
from ftlab.tabs.experiment import queue
from ftlab.tabs.experiment.queue import NEWEST, QueueWatch
from tests.fakes import make_run


def test_glances_within_a_second_read_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "lora", "running")
    now, store = [100.0], RunStore(tmp_path)
    looks: list[object] = []
    real = store._read
    monkeypatch.setattr(
        store, "_read", lambda directory: looks.append(directory) or real(directory)
    )
    monkeypatch.setattr("ftlab.records.store.time.monotonic", lambda: now[0])
    watch = QueueWatch(store, clock=lambda: now[0])
    first = watch.glance(NEWEST)
    assert all(watch.glance(NEWEST) is first for _ in range(50))
    assert len(looks) == 1
    now[0] += 1.1
    make_run(tmp_path, "qlora", "running")
    assert watch.glance(NEWEST) != first


def test_a_look_after_a_press_is_never_old(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    before = watch.glance(NEWEST)
    make_run(tmp_path, "qlora", "running")
    assert watch.look(NEWEST).queue != before.queue
    assert watch.glance(NEWEST).queue != before.queue, "and is what is glanced at from then on"


def test_curves_that_did_not_change_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    real = queue.loss_figure
    monkeypatch.setattr(queue, "loss_figure", lambda *a, **kw: drawn.append(a) or real(*a, **kw))
    run = make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    figures = []
    for phase in ("train", "evaluate", "save"):
        with run.metrics_file.open("a") as file:
            file.write(json.dumps({"event": "phase", "phase": phase, "elapsed": 99}) + "\n")
        look = watch.look(NEWEST)
        assert look.drawing is not None
        figures.append(look.drawing.figure)
    assert len(drawn) == 1
    assert figures[0] is figures[-1]


def test_a_visitors_nonsense_does_not_fill_the_memory(tmp_path: Path) -> None:
    watch = QueueWatch(RunStore(tmp_path))
    for number in range(100):
        watch.glance(f"sweep {number}")
    assert len(watch._looks) <= 20


def test_cancels_and_deletes_are_noted_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", lambda folder: None)
    queued, done = make_run(tmp_path, "lora", "queued"), make_run(tmp_path, "qlora")
    with app_log(tmp_path / ".ftlab"):
        request_cancel(tmp_path, [queued.run_id])
        remove_runs(tmp_path, [done.run_id])
    lines = (tmp_path / ".ftlab" / "app.log").read_text().splitlines()
    assert [(row["event"], row["runs"]) for row in map(json.loads, lines)] == [
        ("cancel requested", [queued.run_id]),
        ("runs deleted", [done.run_id]),
    ]
