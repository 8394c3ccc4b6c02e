"""The process that answers one prompt grid.

Run as: python -m ftlab.playground.grid_worker GRID_DIR

Prompts are answered in portions, all panes of a portion together. The device is locked for one
portion at a time (on a GPU for all portions, because the models stay in its memory). Between
tokens it yields the device if a training run or a prompt waits for it.
The exit status is 0 if the grid is done, 1 if not, 2 if the grid cannot be processed at all.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.locks import DeviceLock, FileLock, free_device, holding
from ftlab.basics.processes import Signs, Watchdog, start_time
from ftlab.models.libraries import prepare_for_libraries
from ftlab.playground.giving_way import YieldDevice, yield_if_wanted
from ftlab.playground.grid import (
    Cell,
    GridDirectory,
    GridProcess,
    GridRequest,
    GridResult,
    portions,
)
from ftlab.playground.requests import WAITING, PaneUpdate, Stopped
from ftlab.playground.worker import LOADING_SECONDS, Engines
from ftlab.records.job import CANCELLED
from ftlab.records.result import FinalStatus

if TYPE_CHECKING:
    from ftlab.playground.engine import Engine
    from ftlab.playground.held_out import AnswerScore

PORTION_SECONDS = 7200.0
"""Timeout for the prefill of a portion's prompts, and for one token in each of its answers."""

WAITING_FOR_DEVICE = "Waiting for a training run or a prompt."
WAITING_FOR_GRID = "Waiting for another prompt grid."

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_SECONDS_BETWEEN_WORDS = 1.0


ScoreAnswer = Callable[[str, str], "AnswerScore | None"]
"""Maps `(prompt, answer)` to a score; `None` if the prompt is not a test example."""


class _Clock:
    """Measures the seconds since the first `start`, without those between `pause` and `resume`."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None
        self._is_paused = False

    @property
    def seconds(self) -> float:
        now = time.perf_counter()
        return self._before + (now - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        self._is_paused = self._since is not None
        self._before, self._since = self.seconds, None

    def resume(self) -> None:
        """Continues, if it was running before the pause."""
        if self._is_paused:
            self.start()


class GridJob:
    """Answers a grid with an engine and writes each cell when it is done."""

    def __init__(
        self,
        grid: GridDirectory,
        engines: Engines,
        score: ScoreAnswer | None,
        watchdog: Signs,
    ) -> None:
        self._grid = grid
        self._watchdog = watchdog
        self._request = grid.request()
        self._engines = engines
        self._score = score
        self._process = (os.getpid(), start_time(os.getpid()) or 0.0)
        self._working = _Clock()  # excludes loading the base, which happens once
        self._waited = _Clock()
        self._waiting = ""
        self._loading = ""  # status before the first prompt is read
        self._tokens: dict[tuple[int, int], int] = {}  # of unfinished answers, by (prompt, pane)
        self._done = 0
        self._told = 0.0
        self._disk: OSError | None = None

    def run(self) -> GridResult:
        """Answers the grid; errors and cancellation are returned as its result."""
        began = time.perf_counter()
        status, reason = self._run()
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        return GridResult(
            status=status,
            reason=reason,
            seconds=time.perf_counter() - began,
            waited_seconds=self._waited.seconds,
            environment={"device": self._engines.device.label, "versions": versions},
        )

    def _run(self) -> tuple[FinalStatus, str]:
        try:
            self._tell()
            with holding(
                FileLock(self._grid.path.parent / "one.lock"), lambda: self._wait(WAITING_FOR_GRID)
            ):
                left = portions(self._request)
                while left:
                    self._answer(left)
        except Stopped:
            if self._disk is None:
                return "cancelled", CANCELLED
            return "failed", f"An answer could not be written ({self._disk.strerror})."
        except Exception as error:
            traceback.print_exc()
            return "failed", f"The grid could not go on: {one_line(error)[:200]}"
        return "done", ""

    def _answer(self, left: list[list[int]]) -> None:
        """Answers the first remaining portion, or on a GPU all, while holding the device lock."""
        device = self._engines.device
        turn = DeviceLock(device.id, in_line=False)
        stopped = False
        with holding(turn, lambda: self._wait(WAITING_FOR_DEVICE)):
            self._go_on()
            engine = self._engines.engine()
            if self._engines.device != device:
                return  # torch cannot use the locked device; the caller tries again on the CPU
            if not device.memory_must_be_given_back:
                self._answer_portion(engine, left.pop(0), turn)
                return
            try:
                while left:
                    self._answer_portion(engine, left.pop(0), turn)
            except Stopped:
                stopped = True  # not re-raised here: its traceback would keep the lanes in memory
            engine.unload()
        if stopped:
            raise Stopped

    def _answer_portion(self, engine: Engine, portion: list[int], turn: DeviceLock) -> None:
        engine.answer_each(
            self._request.request,
            [self._request.prompts[place] for place in portion],
            lambda place, update: self._take(portion[place], update),
            partial(self._check, turn),
        )
        if not engine.device_answers:
            raise FtlabError(
                f"the {self._engines.device.label} reported an error and no longer responds; look "
                "at the driver's report (`nvidia-smi`), and start the grid again."
            )

    def _take(self, prompt: int, update: PaneUpdate) -> None:
        if update.kind != "status" or update.text == WAITING:
            self._watchdog.expect(PORTION_SECONDS)
            self._loading = ""
            self._working.start()
        else:  # the base is downloaded or loaded, for the first time or again
            self._watchdog.expect(LOADING_SECONDS)
            self._loading = update.text
            self._working.pause()
        try:
            if update.is_final:
                self._grid.add_cell(self._cell(prompt, update))
                self._tokens.pop((prompt, update.pane), None)
                self._done += 1
            else:
                self._tokens[prompt, update.pane] = update.tokens
            if time.perf_counter() - self._told >= _SECONDS_BETWEEN_WORDS:
                self._tell()
        except OSError as error:  # stored here: the engine would treat it as an error of the pane
            traceback.print_exc()
            self._disk = error

    def _cell(self, prompt: int, update: PaneUpdate) -> Cell:
        scored = None
        if self._score is not None and not update.error:
            try:
                scored = self._score(self._request.prompts[prompt], update.answer)
            except Exception:  # the answer itself is kept
                traceback.print_exc()
        told = update.next_token
        return Cell(
            prompt=prompt,
            pane=update.pane,
            answer=update.answer,
            error=update.error,
            tokens=update.tokens,
            tokens_per_second=update.tokens_per_second,
            first_token_seconds=update.first_token_seconds,
            adapter_sha256=update.adapter_sha256,
            kl_nats=told.kl_nats if told else None,
            top1_changed=told.top1_changed if told else None,
            note=update.note,
            score=scored.score if scored else None,
            metric=scored.metric if scored else "",
            verdict=scored.verdict if scored else "",
            worked_seconds=round(self._working.seconds, 3),
        )

    def _check(self, turn: DeviceLock) -> float | YieldDevice:
        """Called between tokens: yields the device. Raises `Stopped` if the grid was cancelled."""
        self._stop_if_told()
        self._watchdog.sign()
        return yield_if_wanted(turn, self._engines.device, partial(self._yield_device, turn))

    def _yield_device(self, turn: DeviceLock) -> None:
        turn.give_way(lambda: self._wait(WAITING_FOR_DEVICE))
        self._go_on()

    def _wait(self, sentence: str) -> None:
        self._stop_if_told()
        self._watchdog.rest()
        if sentence == self._waiting:
            return
        if not self._waiting:
            self._working.pause()
            self._waited.start()
        self._waiting = sentence
        self._tell()

    def _go_on(self) -> None:
        self._watchdog.expect(LOADING_SECONDS)
        if self._waiting:
            self._waited.pause()
            self._working.resume()
            self._waiting = ""
            self._tell()

    def _tell(self) -> None:
        """Writes the progress and what the grid waits for."""
        most = self._request.request.max_new_tokens
        pid, started = self._process
        process = GridProcess(
            pid,
            started,
            self._waiting or self._loading,
            reached=self._done + sum(tokens / most for tokens in self._tokens.values()),
            worked_seconds=round(self._working.seconds, 3),
        )
        self._grid.write_process(process)
        self._told = time.perf_counter()

    def _stop_if_told(self) -> None:
        if self._disk is not None or self._grid.cancel_file.exists():
            raise Stopped


def held_out_scores(request: GridRequest) -> ScoreAnswer | None:
    """Returns a function that scores answers to the task's test examples; `None` if no task."""
    task = request.task
    if task is None:
        return None
    from ftlab.playground.held_out import HeldOut

    held_out = HeldOut()

    def score(prompt: str, answer: str) -> AnswerScore | None:
        example = held_out.find(prompt, [task])
        return held_out.score(example, answer) if example is not None else None

    return score


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m ftlab.playground.grid_worker GRID_DIR", file=sys.stderr)
        return 2
    grid = GridDirectory(Path(arguments[0]).resolve())
    try:
        request = grid.request()
        if not grid.begin():
            raise FtlabError(f"The grid {grid.grid_id} was started before; ask for a new one.")
    except FtlabError as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 2
    device = free_device()
    prepare_for_libraries(device.id)
    engines = Engines(grid.runs_folder, device)
    watchdog = Watchdog(lambda sentence: grid.give_up("failed", sentence))
    result = GridJob(grid, engines, held_out_scores(request), watchdog).run()
    watchdog.rest()
    grid.write_result(result)
    return 0 if result.status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
