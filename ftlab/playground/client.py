"""The playground's worker as seen from page, API and command line. Imports no torch."""

from __future__ import annotations

import itertools
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftlab.access import EVERYTHING, Access
from ftlab.errors import InvalidRequest
from ftlab.playground.named import check_named
from ftlab.playground.panes import BASE, LineUp, line_up
from ftlab.playground.protocol import (
    FromWorker,
    GenerateRequest,
    PaneUpdate,
    ToWorker,
    parse_from_worker,
    to_line,
)
from ftlab.playground.validation import validate_generate
from ftlab.runs.control import control_folder
from ftlab.runs.process import resident_bytes
from ftlab.runs.spawn import python_environment
from ftlab.runs.watchdog import STUCK_ENDS
from ftlab.turns import NOBODY, Places, Turns, Visitor

BUSY = "Another prompt is being answered; visitors take turns, and this one waits for its own."
STARTING = "Starting the worker …"
SECONDS_BETWEEN_SIGNS = 1.0
"""A silent wait is broken that often, so that a reader who has gone is noticed."""

_GRACE_SECONDS = 5.0


class _Worker:
    """One worker process and what it has said so far."""

    def __init__(self, command: Sequence[str], log: Path, needs_hub: bool) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=python_environment(needs_hub),
                # Ctrl-C in a terminal is for the app; the worker ends when its stdin closes.
                start_new_session=True,
            )
        self.said: queue.Queue[FromWorker | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def tell(self, message: ToWorker) -> None:
        """A worker that is gone is noticed where its answer is read, so nothing is raised here."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(to_line(message))
            self.process.stdin.flush()
        except (OSError, ValueError):
            pass

    def end(self) -> None:
        """Ends the process and returns when it is gone."""
        self.process.terminate()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def how_it_ended(self) -> str:
        code = self.process.wait()
        if code in STUCK_ENDS:
            return "it showed no progress for minutes"
        if code == -9:
            return "killed, perhaps because memory ran out"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def _read(self) -> None:
        """Reads to the end whatever the readers do, so that the worker never waits for them."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.said.put(parse_from_worker(line))
            except (ValueError, KeyError, TypeError):
                continue  # no message of ours
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.put(None)


class _Ended(Exception):
    """The worker ended before the answer did; `heard` says whether it had begun it."""

    def __init__(self, worker: _Worker, heard: bool) -> None:
        super().__init__()
        self.worker = worker
        self.heard = heard


class PlaygroundClient:
    """Asks one worker process, started on first use; safe to use from several threads.

    One request is answered at a time; visitors take turns. `command` replaces the worker's command
    line (for tests); `access` says what base models its visitors may name.
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
        self._command = list(command) if command else [
            sys.executable,
            "-m",
            "ftlab.playground.worker",
            str(runs_folder.resolve()),
            "--idle-seconds",
            str(idle_seconds),
        ]  # fmt: skip
        self._turns = Turns(Places(waiting_of_a_session=16))
        self._numbers = itertools.count(1)
        self._worker: _Worker | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether a worker process is there, with its memory."""
        worker = self._worker
        return worker is not None and worker.is_alive

    def resident_bytes(self) -> int | None:
        """Memory that the worker process holds in RAM; `None` while there is none."""
        worker = self._worker
        return resident_bytes(worker.process.pid) or None if worker and worker.is_alive else None

    def generate(
        self, request: GenerateRequest, visitor: Visitor = NOBODY
    ) -> Generator[PaneUpdate, None, None]:
        """Streams updates until every pane had its "done" or "error".

        `visitor` tells people apart who wait: one with many prompts lets the others in between.
        Closing the iterator early stops the answer. Raises `InvalidRequest` here and now, before
        anything is started, for a wrong form; what is wrong with one pane is said in that pane.
        """
        return self._stream(request, self._line_up(request).problems, visitor)

    def generate_all(
        self,
        request: GenerateRequest,
        tell: Callable[[str], None] = lambda status: None,
        visitor: Visitor = NOBODY,
    ) -> list[dict[str, Any]]:
        """The final state of every pane as JSON; raises as `generate` does.

        `tell` gets what is being waited for, about once a second or more often.
        """
        lineup = self._line_up(request)
        final: dict[int, PaneUpdate] = {}
        for update in self._stream(request, lineup.problems, visitor):
            if update.is_final:
                final[update.pane] = update
            elif update.kind == "status":
                tell(update.text)
        return [
            as_record(final[pane], name, lineup.label(pane, name))
            for pane, name in enumerate(request.panes)
        ]

    def close(self) -> None:
        """Ends the worker; all its memory is given back. The next request starts a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _line_up(self, request: GenerateRequest) -> LineUp:
        check_named(request.panes, request.model, self.runs_folder, self._access)
        errors = validate_generate(request)
        if errors:
            raise InvalidRequest(errors)
        return line_up(request.panes, request.model, self.runs_folder)

    def _stream(
        self, request: GenerateRequest, problems: Mapping[int, str], visitor: Visitor = NOBODY
    ) -> Generator[PaneUpdate, None, None]:
        for pane, problem in problems.items():
            yield PaneUpdate(pane, "error", problem)
        panes = [pane for pane in range(len(request.panes)) if pane not in problems]
        if not panes:
            return
        with self._turns.line(visitor) as place:
            while not place.has_come(SECONDS_BETWEEN_SIGNS):
                for pane in panes:
                    yield PaneUpdate(pane, "status", BUSY)
            yield from self._stream_in_turn(request, problems, panes)

    def _stream_in_turn(
        self, request: GenerateRequest, problems: Mapping[int, str], panes: Sequence[int]
    ) -> Generator[PaneUpdate, None, None]:
        unfinished = set(panes)
        try:
            with closing(self._answers(request)) as updates:
                for update in updates:
                    if update.pane in problems:
                        continue  # said above
                    if update.is_final:
                        unfinished.discard(update.pane)
                    yield update
            sentence = "The playground's worker gave no answer; send the prompt again."
        except _Ended as end:
            another = "a new one has been started, so " if self._start_another(end.worker) else ""
            sentence = (
                f"The playground's worker ended before it had answered "
                f"({end.worker.how_it_ended()}); {another}send the prompt again. Its log is "
                f"{self.log_file}."
            )
        except OSError as error:
            sentence = f"The playground's worker could not be started ({error.strerror})."
        for pane in sorted(unfinished):
            yield PaneUpdate(pane, "error", sentence)

    def _start_another(self, ended: _Worker) -> bool:
        if self._worker is not ended:  # it was closed on purpose
            return False
        with suppress(OSError):
            self._worker = _Worker(self._command, self.log_file, self._access.may_ask_hub)
        return self._worker is not ended

    def _answers(self, request: GenerateRequest) -> Generator[PaneUpdate, None, None]:
        try:
            yield from self._ask(request)
        except _Ended as end:
            # It had been idle and left just as it was asked, or was stuck in an answer that had
            # been left; neither is this request's error.
            if end.heard or end.worker.process.returncode not in (0, *STUCK_ENDS):
                raise
            yield from self._ask(request)

    def _ask(self, request: GenerateRequest) -> Iterator[PaneUpdate]:
        worker = self._worker
        if worker is None or not worker.is_alive:
            worker = self._worker = _Worker(self._command, self.log_file, self._access.may_ask_hub)
        number = next(self._numbers)
        worker.tell(ToWorker(number, request))
        latest: dict[int, PaneUpdate] = {}
        ended, until = False, math.inf
        try:
            while True:
                if time.monotonic() > until:
                    yield from _cut(len(request.panes), latest, self._access.answer_seconds)
                    return
                try:
                    message = worker.said.get(timeout=SECONDS_BETWEEN_SIGNS)
                except queue.Empty:
                    if not latest:
                        for pane in range(len(request.panes)):
                            yield PaneUpdate(pane, "status", STARTING)
                    yield from [update for update in latest.values() if not update.is_final]
                    continue
                if message is None:
                    ended = True
                    raise _Ended(worker, heard=bool(latest))
                if message.number != number:
                    continue  # of an answer that was left
                if message.update is None:
                    ended = True
                    return
                latest[message.update.pane] = message.update
                if message.update.kind == "text" and until == math.inf:
                    until = time.monotonic() + (self._access.answer_seconds or math.inf)
                yield message.update
        finally:
            if not ended:
                worker.tell(ToWorker(number))


def _cut(
    panes: int, latest: Mapping[int, PaneUpdate], seconds: float | None
) -> Iterator[PaneUpdate]:
    """The end of panes that wrote for as long as they may."""
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
    """A pane's final update as JSON for command line and API; `error` is "" where there is none."""
    failed = update.kind == "error"
    told = update.next_token
    return {
        "pane": update.pane,
        "name": name,
        "run_id": None if name == BASE or ":" in name else name,
        "label": label,
        "answer": update.partial if failed else update.text,
        "tokens": update.tokens,
        "tokens_per_second": update.tokens_per_second,
        "first_token_seconds": update.first_token_seconds,
        "swap_seconds": update.swap_seconds,
        "adapter_sha256": update.adapter_sha256,
        "next_token": asdict(told) if told else None,
        "changes_nothing": update.changes_nothing,
        "note": update.note,
        "error": update.text if failed else "",
    }
