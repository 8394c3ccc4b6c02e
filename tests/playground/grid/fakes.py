"""Grids that no process answered, and an engine that answers without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ftlab.basics.devices import Device
from ftlab.basics.processes import Signs
from ftlab.playground.grid import Cell, GridDirectory, GridRequest, GridResult, new_grid
from ftlab.playground.grid_worker import GridJob, ScoreAnswer
from ftlab.playground.requests import GenerateRequest, NextToken, PaneUpdate
from ftlab.prediction.duration import Rates
from ftlab.tasks.reference import TaskReference

CPU = Device("cpu", "CPU, 2 cores", 16 * 10**9)
RUN = "20261125-120000-ab12-02-lora"
SQL = TaskReference("bundled", "sql")
RATES = Rates(2e11, 9e10, 3e10, 3e-6, overlaps=False, few_rows=5e9, unpacked=7e9)
"""Of one core of a CPU."""


def make_request(
    prompts: Iterable[str] = ("one", "two"),
    panes: tuple[str, ...] = ("base", RUN),
    labels: tuple[str, ...] = ("Base", "LoRA"),
    methods: tuple[str, ...] = ("base", "lora"),
    task: TaskReference | None = None,
    **settings: Any,
) -> GridRequest:
    request = GenerateRequest(panes, "", **({"model": "bundled"} | settings))
    return GridRequest(request, tuple(prompts), task, labels, methods)


def make_grid(
    runs_folder: Path,
    request: GridRequest | None = None,
    cells: Iterable[Cell] = (),
    status: Any = None,
) -> GridDirectory:
    """A grid's folder with these cells; without a status it has not ended."""
    grid = new_grid(runs_folder)
    grid.write_request(request or make_request())
    for cell in cells:
        grid.add_cell(cell)
    if status:
        grid.write_result(
            GridResult(
                status, "" if status == "done" else "Why.", 12.0, 0.0, {"device": "AMD EPYC"}
            )
        )
    return grid


def scored_grid(
    runs_folder: Path,
    scores: Sequence[Sequence[float]],
    metric: str = "SQL score",
    **request: Any,
) -> GridDirectory:
    """A finished grid with these scores, a sequence a pane."""
    prompts = [f"question {number}" for number in range(len(scores[0]))]
    cells = [
        Cell(prompt, pane, f"answer {prompt}", score=score, metric=metric, tokens_per_second=10.0)
        for pane, column in enumerate(scores)
        for prompt, score in enumerate(column)
    ]
    return make_grid(runs_folder, make_request(prompts, **request), cells, "done")


class FakeEngine:
    """Answers "<prompt> by <pane>", a token a pane; `on_check` sees each check's place."""

    device_answers = True

    def __init__(self, on_check: Callable[[int], None] = lambda number: None) -> None:
        self.portions: list[list[str]] = []
        self.held: list[float] = []
        self.errors: dict[str, str] = {}
        self._on_check = on_check
        self._checks = 0

    def answer_each(
        self,
        request: GenerateRequest,
        prompts: Sequence[str],
        send: Callable[[int, PaneUpdate], None],
        check: Callable[[], float | None],
    ) -> None:
        self.portions.append(list(prompts))
        for pane, name in enumerate(request.panes):
            for place, prompt in enumerate(prompts):
                send(place, PaneUpdate(pane, "status", "Waiting for its turn …"))
                self._on_check(self._checks)
                self._checks += 1
                self.held.append(check() or 0.0)
                send(place, PaneUpdate(pane, "text", prompt[:1], tokens=1))
                send(place, self._final(pane, name, prompt))

    def _final(self, pane: int, name: str, prompt: str) -> PaneUpdate:
        if name in self.errors:
            return PaneUpdate(pane, "error", self.errors[name], partial=prompt[:1])
        return PaneUpdate(
            pane,
            "done",
            f"{prompt} by {name}",
            tokens=3,
            tokens_per_second=20.0,
            first_token_seconds=0.1,
            adapter_sha256="" if name == "base" else "ab12",
            next_token=None if name == "base" else NextToken(0.25, "S", "T", True),
        )


def job_of(
    grid: GridDirectory,
    engine: FakeEngine | None = None,
    score: ScoreAnswer | None = None,
    devices: tuple[Device, Device] = (CPU, CPU),
    watchdog: Signs | None = None,
) -> GridJob:
    """A job with that engine; the device changes from the first to the second of `devices`."""
    engines: Any = FakeEngines(engine or FakeEngine(), *devices)
    return GridJob(grid, engines, score, watchdog or Signs())


class FakeEngines:
    """Gives one engine out; `device` becomes `then` when that happens."""

    def __init__(
        self, engine: FakeEngine, device: Device = CPU, then: Device | None = None
    ) -> None:
        self.device = device
        self._engine = engine
        self._then = then

    def engine(self) -> FakeEngine:
        self.device = self._then or self.device
        return self._engine
