"""Watching a sweep: behind another one, and until Ctrl-C cancels the rest of it."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ftlab.commands import watch as watch_module
from ftlab.jobs.control import control_folder, note_trouble
from ftlab.methods.registry import BASE_METHOD
from ftlab.records.kept_bases import MEASURED_IN
from ftlab.records.result import Status
from ftlab.records.store import Run, RunStore
from tests.fakes import make_run

FIRST, SECOND = "20261125-120000-aaaa", "20261125-120100-bbbb"


class LateStore:
    """One folder for some looks, and then another one; with a run of the first sweep in both."""

    def __init__(self, folder: Path, looks: int, before: Status, after: Status = "done") -> None:
        self.folder = folder
        self.before, self.after = folder / "before", folder / "after"
        make_run(self.before, "lora", before, sweep_id=FIRST)
        make_run(self.after, "lora", after, sweep_id=FIRST)
        self._looks = looks

    def runs(self) -> list[Run]:
        self._looks -= 1
        return RunStore(self.before if self._looks > 0 else self.after).runs()


def test_a_sweep_behind_another_one_waits_without_starting_dispatchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(watch_module, "_RESTART_AFTER", 0.02)
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch_module, "start_dispatcher", started.append)
    store = LateStore(tmp_path, 20, "running")
    make_run(store.before, "lora", "queued", sweep_id=SECOND)
    make_run(store.after, "lora", "done", sweep_id=SECOND)
    watch_module.watch(store, SECOND, Console(quiet=True))  # type: ignore[arg-type]
    assert started == []


def test_a_base_that_was_measured_before_is_not_said_to_have_taken_time(tmp_path: Path) -> None:
    base = make_run(tmp_path, BASE_METHOD, sweep_id=FIRST)
    make_run(tmp_path, "lora", sweep_id=FIRST)
    own = base.result()
    assert own is not None
    base.complete_result(replace(own, environment=own.environment | {MEASURED_IN: "another"}))
    said = StringIO()
    watch_module.watch(RunStore(tmp_path), FIRST, Console(file=said))
    before, trained = said.getvalue().splitlines()
    assert before == "Base bf16: measured before"
    assert trained.startswith("LoRA: done in ")


@pytest.mark.parametrize(("looks", "line"), [(5, "LoRA: out of memory"), (9**9, "LoRA: interr")])
def test_a_dead_worker_is_told_of_once_the_dispatcher_has_recorded_it_or_has_had_the_time(
    looks: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch_module, "_RECORDED_SECONDS", 0.3)
    store = LateStore(tmp_path, looks, "interrupted", "out_of_memory")
    (only,) = watched(store)
    assert only.startswith(line)


def test_what_a_cluster_lacks_is_told_once_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(watch_module, "_RESTART_AFTER", 0.0)
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch_module, "start_dispatcher", started.append)
    store = LateStore(tmp_path, 20, "queued")
    control_folder(tmp_path).mkdir()
    note_trouble(tmp_path, "No Ray cluster answers.")
    first, last = watched(store)
    assert first == "No Ray cluster answers."
    assert last.startswith("LoRA: done")
    assert len(started) > 10, "one that died with its trouble is started again"


def watched(store: LateStore) -> list[str]:
    """The lines that are printed until its sweep has ended."""
    said = StringIO()
    watch_module.watch(store, FIRST, Console(file=said, width=999))  # type: ignore[arg-type]
    return said.getvalue().splitlines()


class InterruptedStore(RunStore):
    """Ctrl-C is pressed at the first look."""

    pressed = False

    def runs(self) -> list[Run]:
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().runs()


def test_ctrl_c_cancels_the_open_runs_alone_and_waits_until_they_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "full", sweep_id=FIRST)
    waiting = make_run(tmp_path, "lora", "queued", sweep_id=FIRST)
    ended = make_run(tmp_path / "elsewhere", "lora", "cancelled", sweep_id=FIRST).result()
    assert ended is not None

    def cancel(folder: Path, run_ids: list[str]) -> None:
        assert (folder, run_ids) == (tmp_path, [waiting.run_id])
        waiting.write_result(ended)

    monkeypatch.setattr(watch_module, "request_cancel", cancel)
    store = InterruptedStore(tmp_path)
    assert not watch_module.watch_or_cancel(store, FIRST, Console(quiet=True))
    assert "cancelling what is left of the sweep" in capsys.readouterr().err
    assert [run.status for run in store.sweep(FIRST)] == ["done", "cancelled"]
