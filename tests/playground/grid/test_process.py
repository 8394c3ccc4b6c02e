"""The real process of a grid, on a tiny model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import resolve_device
from ftlab.basics.locks import DeviceLock
from ftlab.playground.grid import GridDirectory, GridRequest, read_progress, start_grid
from ftlab.playground.requests import GenerateRequest
from ftlab.records.result import OPEN
from ftlab.records.run import RunDirectory
from tests.waiting import wait_until


@pytest.fixture
def start(runs_folder: Path, tiny_model: Path) -> Callable[..., GridDirectory]:
    def start(
        prompts: tuple[str, ...], panes: tuple[str, ...] = ("base",), **settings: Any
    ) -> GridDirectory:
        settings = {"model": str(tiny_model), "max_new_tokens": 8} | settings
        return start_grid(GridRequest(GenerateRequest(panes, "", **settings), prompts), runs_folder)

    return start


@pytest.mark.slow
def test_a_grid_is_answered_by_a_process_of_its_own(
    start: Callable[..., GridDirectory], add_run: Callable[..., RunDirectory]
) -> None:
    run = add_run("lora").run_id
    grid = start(("hi", "a longer prompt", "x" * 4000), ("base", run))
    wait_until(lambda: grid.status() not in OPEN)
    result = grid.result()
    assert result is not None, grid.log_file.read_text()
    assert result.status == "done", result.reason
    cells = {(cell.prompt, cell.pane): cell for cell in grid.cells()}
    assert len(cells) == 6
    assert [bool(cells[prompt, 1].error) for prompt in range(3)] == [False, False, True]
    assert "shorten the prompt" in cells[2, 0].error
    assert cells[0, 0].answer != cells[0, 1].answer
    assert cells[0, 1].adapter_sha256
    assert (cells[0, 1].kl_nats or 0) > 0


@pytest.mark.slow
def test_a_grid_waits_for_training_in_a_session_of_its_own_until_a_cancel_or_a_kill(
    start: Callable[..., GridDirectory],
) -> None:
    training = DeviceLock(resolve_device("auto").id)
    assert training.try_acquire()
    cancelled = start(("hi",))
    wait_until(lambda: "training run" in read_progress(cancelled).waiting)
    killed = start(("hi",))
    wait_until(lambda: "another prompt grid" in read_progress(killed).waiting)
    cancelled.cancel()
    result = cancelled.result()
    assert result is not None
    assert (result.status, bool(result.environment)) == ("cancelled", True)
    process = killed.process()
    assert process is not None
    assert os.getsid(process.pid) == process.pid, "it would end with the app's terminal"
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: killed.status() == "interrupted", seconds=10)
    training.release()
