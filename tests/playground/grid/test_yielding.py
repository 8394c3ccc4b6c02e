"""A grid yields a GPU with its memory; its cells are the same as without the interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import Signs
from ftlab.playground import grid_worker
from ftlab.playground.grid import Cell, GridDirectory, GridResult, read_progress
from ftlab.playground.grid_worker import GridJob
from ftlab.playground.requests import PaneUpdate
from tests.playground.card import Card, FakeTime, card_in
from tests.playground.conftest import AddAdapter, AddRun
from tests.playground.grid.fakes import make_grid, make_request

PROMPTS = ("how many", "the capital of France", "a king", "who was it", "x")


@pytest.fixture
def card(runs_folder: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    monkeypatch.setattr("ftlab.playground.grid.ROWS", 6)  # portions of two prompts
    with card_in(runs_folder) as card:
        yield card


@pytest.fixture
def new_grid(
    runs_folder: Path,
    tiny_model: Path,
    add_run: AddRun,
    add_adapter: AddAdapter,
) -> Callable[[], GridDirectory]:
    panes = ("base", add_run("lora").run_id, add_adapter("dora").name)
    settings: dict[str, Any] = {
        "model": str(tiny_model), "precision": "fp32", "max_new_tokens": 8,
        "temperature": 0.9, "seed": 3,
    }  # fmt: skip
    return lambda: make_grid(runs_folder, make_request(PROMPTS, panes, (), (), **settings))


def answered(
    grid: GridDirectory,
    card: Card,
    at: Callable[[PaneUpdate, int], bool] = lambda update, done: False,
) -> GridResult:
    """The training run comes once `at(update, cells done)` is true."""
    came = False

    class Job(GridJob):
        def _take(self, prompt: int, update: PaneUpdate) -> None:
            nonlocal came
            super()._take(prompt, update)
            if not came and at(update, self._done):
                came = True
                card.watch_models()
                card.want()

    engines: Any = card
    result = Job(grid, engines, None, Signs()).run()
    assert result.status == "done", result.reason
    return result


def contents(grid: GridDirectory) -> dict[tuple[int, int], tuple[object, ...]]:
    return {
        (cell.prompt, cell.pane): (
            cell.answer, cell.error, cell.tokens, cell.kl_nats, cell.adapter_sha256,
        )
        for cell in grid.cells()
    }  # fmt: skip


@pytest.mark.parametrize(
    "at",
    [
        lambda update, done: update.kind == "text" and update.tokens == 4,
        lambda update, done: done == 6,
        lambda update, done: done >= 6 and update.kind == "text" and update.tokens == 4,
    ],
    ids=["in the first portion", "between two portions", "in the second"],
)
def test_cells_are_the_same_as_without_interruption(
    at: Callable[[PaneUpdate, int], bool], card: Card, new_grid: Callable[[], GridDirectory]
) -> None:
    undisturbed, grid = new_grid(), new_grid()
    answered(undisturbed, card)
    answered(grid, card, at)
    assert card.trained == 1
    assert card.left == [[]], "this was still in memory when the device was yielded"
    assert contents(grid) == contents(undisturbed)
    assert len(contents(grid)) == 15


def test_the_work_time_excludes_waits_and_reloads(
    card: Card, new_grid: Callable[[], GridDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading takes 1,000 seconds, and 100 pass at each look whether the device is free again."""
    clock = FakeTime()
    monkeypatch.setattr(grid_worker, "time", clock)
    monkeypatch.setattr(grid_worker, "_SECONDS_BETWEEN_WORDS", 0.0)
    grid, load = new_grid(), card.made.load
    reached: list[float] = []
    looks = 0

    def slow(*arguments: Any) -> None:
        load(*arguments)
        reached.append(read_progress(grid).reached)
        clock.passes(1000)

    def wait(job: GridJob, sentence: str, real: Any = GridJob._wait) -> None:
        nonlocal looks
        real(job, sentence)
        looks += 1
        clock.passes(100)

    monkeypatch.setattr(card.made, "load", slow)
    monkeypatch.setattr(GridJob, "_wait", wait)
    result = answered(grid, card, lambda update, done: update.kind == "text" and update.tokens == 4)
    assert looks
    assert result.waited_seconds == 100 * looks
    assert {cell.worked_seconds for cell in grid.cells()} == {0.0}
    assert result.seconds == 2000 + 100 * looks
    assert reached[0] == 0
    assert reached[1] > 1, "answers under way were forgotten while the base was loaded"


def test_a_cancellation_during_the_wait_frees_device_and_memory(
    card: Card, new_grid: Callable[[], GridDirectory]
) -> None:
    grid = new_grid()
    card.training_takes = 0.3
    card.while_training = grid.cancel_file.touch
    with pytest.raises(AssertionError, match="Cancelled by the person"):
        answered(grid, card, lambda update, done: update.kind == "text" and update.tokens == 4)
    card.note_what_is_left()
    assert card.left == [[], []]
    turn = DeviceLock(card.device.id)
    turn.acquire()
    turn.release()
    assert all(isinstance(cell, Cell) for cell in grid.cells())


def test_memory_is_freed_also_if_training_waits_when_the_grid_ends(
    card: Card, new_grid: Callable[[], GridDirectory]
) -> None:
    answered(new_grid(), card, lambda update, done: done == 15)
    assert card.left == [[]]
