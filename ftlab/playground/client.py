"""Client of the playground's worker for the page, API and command line. Imports no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftlab.basics.errors import InvalidRequest
from ftlab.basics.processes import WorkerClient, WorkerEnded, module_command, resident_bytes
from ftlab.basics.visitor_turns import NOBODY, Places, Visitor, VisitorQueue
from ftlab.jobs.control import control_folder
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.playground.panes import BASE, LineUp, line_up
from ftlab.playground.requests import (
    GenerateRequest,
    PaneUpdate,
    check_named,
    update_from_json,
    validate_generate,
)

BUSY = "Another prompt is being answered; visitors take turns, and this one waits for its own."
STARTING = "Starting the worker …"
SECONDS_BETWEEN_SIGNS = 1.0
"""Interval of updates during a silent wait, so that a disconnected reader is noticed."""


class PlaygroundClient:
    """Sends requests to one worker process, started on first use; thread-safe.

    The worker answers one request at a time; visitors take turns. `command` replaces the worker's
    command line (for tests). `access` limits which base models its visitors may choose.
    """

    def __init__(
        self,
        runs_folder: Path,
        command: Sequence[str] | None = None,
        idle_seconds: float = 300,
        access: Access = EVERYTHING,
    ) -> None:
        self.runs_folder = runs_folder
        self._access = access
        self.log_file = control_folder(runs_folder) / "playground.log"
        options = (str(runs_folder.resolve()), "--idle-seconds", str(idle_seconds))
        command = command or module_command("ftlab.playground.worker", *options)
        self._turns = VisitorQueue(Places(waiting_of_a_session=16))
        self._worker = WorkerClient(command, self.log_file, access.may_ask_hub)

    @property
    def process_id(self) -> int | None:
        """Id of the worker process; `None` if none is running."""
        return self._worker.process_id

    @property
    def is_loaded(self) -> bool:
        """Whether a worker process is running."""
        return self.process_id is not None

    def resident_bytes(self) -> int | None:
        """RAM that the worker process uses; `None` if none is running."""
        number = self.process_id
        return None if number is None else resident_bytes(number) or None

    def generate(
        self, request: GenerateRequest, visitor: Visitor = NOBODY
    ) -> Generator[PaneUpdate, None, None]:
        """Streams updates until every pane has received "done" or "error".

        `visitor` identifies who waits: visitors take turns, so one with many prompts does not block
        the others. Closing the iterator early stops the answer. Raises `InvalidRequest` for an
        invalid request, before anything starts; a problem of one pane is reported in that pane.
        """
        return self._stream(request, self._line_up(request), visitor)

    def generate_all(
        self,
        request: GenerateRequest,
        tell: Callable[[str], None] = lambda status: None,
        visitor: Visitor = NOBODY,
    ) -> list[dict[str, Any]]:
        """Returns the final state of every pane as JSON; raises as `generate` does.

        `tell` is called with the current status, at least about once a second.
        """
        lineup = self._line_up(request)
        final: dict[int, PaneUpdate] = {}
        for update in self._stream(request, lineup, visitor):
            if update.is_final:
                final[update.pane] = update
            elif update.kind == "status":
                tell(update.text)
        return [
            as_record(final[pane], name, lineup.label(pane, name))
            for pane, name in enumerate(request.panes)
        ]

    def close(self) -> None:
        """Ends the worker and frees its memory. The next request starts a new one."""
        self._worker.close()

    def _line_up(self, request: GenerateRequest) -> LineUp:
        check_named(request.panes, request.model, self.runs_folder, self._access)
        errors = validate_generate(request)
        if errors:
            raise InvalidRequest(errors)
        return line_up(request.panes, request.model, self.runs_folder)

    def _stream(
        self, request: GenerateRequest, lineup: LineUp, visitor: Visitor = NOBODY
    ) -> Generator[PaneUpdate, None, None]:
        """The worker gets only the panes that may answer, and their base: it does not know who
        asks, and would find what that person may not see."""
        for pane, problem in lineup.problems.items():
            yield PaneUpdate(pane, "error", problem)
        panes = sorted(lineup.sources)
        if not panes:
            return
        request = replace(
            request,
            panes=tuple(request.panes[pane] for pane in panes),
            model=lineup.model,
            histories=tuple(request.histories[pane] for pane in panes if request.histories),
        )
        with self._turns.line(visitor) as place:
            while not place.has_come(SECONDS_BETWEEN_SIGNS):
                for pane in panes:
                    yield PaneUpdate(pane, "status", BUSY)
            yield from self._stream_in_turn(request, panes)

    def _stream_in_turn(
        self, request: GenerateRequest, panes: Sequence[int]
    ) -> Generator[PaneUpdate, None, None]:
        """`panes` has the place of each of the request's panes in what was asked for."""
        unfinished = set(panes)
        try:
            with closing(self._answers(request)) as updates:
                for update in updates:
                    update = replace(update, pane=panes[update.pane])
                    if update.is_final:
                        unfinished.discard(update.pane)
                    yield update
            sentence = "The playground's worker gave no answer; send the prompt again."
        except WorkerEnded as end:
            another = ""
            if end.is_unexpected:  # it was not closed on purpose
                with suppress(OSError):
                    self._worker.start()
                    another = "a new one has been started, so "
            sentence = (
                f"The playground's worker ended before it had answered ({end}); {another}send the "
                f"prompt again. Its log is {self.log_file}."
            )
        except OSError as error:
            sentence = f"The playground's worker could not be started ({error.strerror})."
        for pane in sorted(unfinished):
            yield PaneUpdate(pane, "error", sentence)

    def _answers(self, request: GenerateRequest) -> Generator[PaneUpdate, None, None]:
        latest: dict[int, PaneUpdate] = {}
        until = math.inf
        with closing(self._worker.ask(request, SECONDS_BETWEEN_SIGNS)) as answer:
            for said in answer:
                if said is not None:
                    update = update_from_json(said)
                    latest[update.pane] = update
                    if update.kind == "text" and until == math.inf:
                        until = time.monotonic() + (self._access.answer_seconds or math.inf)
                    yield update
                elif latest:
                    yield from [update for update in latest.values() if not update.is_final]
                else:
                    for pane in range(len(request.panes)):
                        yield PaneUpdate(pane, "status", STARTING)
                if time.monotonic() > until:
                    yield from _cut(len(request.panes), latest, self._access.answer_seconds)
                    return


def _cut(
    panes: int, latest: Mapping[int, PaneUpdate], seconds: float | None
) -> Iterator[PaneUpdate]:
    """Yields the final updates of panes that reached the time limit."""
    for pane in range(panes):
        update = latest.get(pane)
        if update is not None and update.is_final:
            continue
        if update is not None and update.kind == "text":
            note = f"Ended after {seconds:g} s, so that the next visitor is answered."
            yield replace(update, kind="done", note=f"{update.note} {note}".strip())
        else:
            sentence = f"This demo answers for {seconds:g} s; ask fewer panes at once."
            yield PaneUpdate(pane, "error", sentence)


def as_record(update: PaneUpdate, name: str, label: str) -> dict[str, Any]:
    """A pane's final update as JSON for command line and API; `error` is "" if it succeeded."""
    return {
        "pane": update.pane,
        "name": name,
        "run_id": None if name == BASE or ":" in name else name,
        "label": label,
        "answer": update.answer,
        "tokens": update.tokens,
        "tokens_per_second": update.tokens_per_second,
        "first_token_seconds": update.first_token_seconds,
        "swap_seconds": update.swap_seconds,
        "adapter_sha256": update.adapter_sha256,
        "next_token": asdict(update.next_token) if update.next_token else None,
        "changes_nothing": update.changes_nothing,
        "note": update.note,
        "error": update.error,
    }
