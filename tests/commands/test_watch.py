"""Watching a sweep that has to wait for another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from ftlab.commands import watch as watch_module
from ftlab.records.store import Run, RunStore
from tests.fakes import make_run

FIRST, SECOND = "20261125-120000-aaaa", "20261125-120100-bbbb"


class MovingStore:
    """A folder in which the first sweep runs for some looks, and then both are done."""

    def __init__(self, folder: Path, looks: int) -> None:
        self.folder = folder
        self._before, self._after = folder / "before", folder / "after"
        make_run(self._before, "lora", "running", sweep_id=FIRST)
        make_run(self._before, "lora", "queued", sweep_id=SECOND)
        make_run(self._after, "lora", "done", sweep_id=SECOND)
        self._looks = looks

    def runs(self) -> list[Run]:
        self._looks -= 1
        return RunStore(self._before if self._looks > 0 else self._after).runs()


def test_a_sweep_behind_another_one_waits_without_starting_dispatchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(watch_module, "_RESTART_AFTER", 0.02)
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch_module, "start_dispatcher", started.append)
    watch_module.watch(MovingStore(tmp_path, looks=20), SECOND, Console(quiet=True))  # type: ignore[arg-type]
    assert started == []
