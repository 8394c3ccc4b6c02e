"""The worker process that generates answers with one base model in memory.

Run as: python -m ftlab.playground.worker RUNS_FOLDER [--idle-seconds N]

Requests are JSON lines on stdin, updates are JSON lines on stdout. The process exits when it has
been idle for a while, and at once when stdin closes; both free its memory. It also exits when an
answer makes no progress, so that a new process handles the next request.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.basics.devices import CPU, Device, cpu_count, resolve_device
from ftlab.basics.errors import one_line
from ftlab.basics.locks import DeviceLock, free_device, holding
from ftlab.basics.processes import Line, Signs, Watchdog, parse_line
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.playground.giving_way import YieldDevice, yield_if_wanted
from ftlab.playground.requests import (
    WAITING,
    GenerateRequest,
    PaneUpdate,
    Stopped,
    UpdateKind,
    request_from_json,
)

if TYPE_CHECKING:
    from ftlab.playground.engine import Engine

IDLE_SECONDS = 300.0
SECONDS_BETWEEN_LOOKS = 2.0

LOADING_SECONDS = 1800.0
"""Timeout for loading the libraries and a base model: 30 GB from a disk at 17 MB/s."""

ANSWER_SECONDS = 900.0
"""Timeout for attaching an adapter, for prefill, and for each token. In that time a 7B model reads
500 tokens at 8 billion operations a second, a fifth of the speed of two old cores."""

LEFT_SECONDS = 60.0
"""Timeout for stopping a cancelled answer. It does not apply while a base model is loaded."""

Write = Callable[[Line], None]
"""Writes a `PaneUpdate` of a request, or the end of its answer."""


class Requests:
    """Reads stdin in its own thread, so that a cancellation arrives while an answer is generated.

    `heard_stop` is called in that thread with the number of the cancelled request; `parse` reads a
    request's JSON.
    """

    def __init__(
        self,
        heard_stop: Callable[[int], None],
        parse: Callable[[dict[str, Any]], Any] = request_from_json,
    ) -> None:
        self._heard_stop = heard_stop
        self._parse = parse
        self._waiting: queue.Queue[Line] = queue.Queue()
        self._stopped: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self, timeout: float) -> Line | None:
        """Returns the next request that was not cancelled; `None` after `timeout` seconds.

        The line's content is what `parse` returned.
        """
        while True:
            try:
                line = self._waiting.get(timeout=timeout)
            except queue.Empty:
                return None
            if not self.is_stopped(line.number):
                return line

    def arrived(self) -> Iterator[Line]:
        """Yields the requests that are here by now, as `next` does."""
        while (line := self.next(0)) is not None:
            yield line

    def is_stopped(self, number: int) -> bool:
        """Whether that request was cancelled."""
        return number in self._stopped

    def check(self, number: int) -> None:
        """Raises `Stopped` if that request was cancelled."""
        if self.is_stopped(number):
            raise Stopped

    def _read(self) -> None:
        for data in sys.stdin:
            try:
                line = parse_line(data)
                if line.content is None:
                    self._stopped.add(line.number)
                    self._heard_stop(line.number)
                else:
                    self._waiting.put(Line(line.number, self._parse(line.content)))
            except (ValueError, KeyError, TypeError):
                traceback.print_exc()
        os._exit(0)  # the client has gone: drop a half-finished answer and free the memory


class Engines:
    """Creates the engine on first use: importing torch earlier would disturb a training run.

    `device` is the device whose lock the engine needs. Torch may not be able to use it.
    """

    def __init__(self, runs_folder: Path, device: Device) -> None:
        self.device = device
        self._runs_folder = runs_folder
        self._engine: Engine | None = None

    @property
    def is_loaded(self) -> bool:
        return self._engine is not None

    def engine(self) -> Engine:
        """Call under the device's lock; sets `device` to the CPU if torch cannot use the GPU."""
        if self._engine is None:
            with lasting_imports():
                import torch

                from ftlab.playground.engine import Engine

            torch.set_num_threads(cpu_count())
            usable = self.device.is_cuda and torch.cuda.is_available()
            self._engine = Engine(self._runs_folder, torch.device("cuda:0" if usable else "cpu"))
            if not usable:
                self.device = resolve_device(CPU)
        return self._engine


def is_in_the_way(engines: Engines) -> bool:
    """Whether others use the device, and need the memory that an idle engine holds."""
    if not (engines.device.memory_must_be_given_back and engines.is_loaded):
        return False
    turn = DeviceLock(engines.device.id)
    if not turn.try_acquire():
        return True
    turn.release()
    return False


class Progress:
    """Sets the watchdog's timeout for the current answer according to its phase."""

    def __init__(self, watchdog: Signs) -> None:
        self.watchdog = watchdog
        self._number: int | None = None
        self._is_loading = False

    def begin(self, number: int) -> None:
        self._number = number

    def load(self) -> None:
        """Marks the start of loading libraries or a base model."""
        self._is_loading = True
        self.watchdog.expect(LOADING_SECONDS)

    def said(self, update: PaneUpdate) -> None:
        """Counts an update as progress; the update also shows whether a base is being loaded."""
        if update.kind == "status" and update.text != WAITING:
            self.load()
        else:
            self._is_loading = False
            self.watchdog.expect(ANSWER_SECONDS)

    def end(self) -> None:
        self._number = None
        self.watchdog.rest()

    def heard_stop(self, number: int) -> None:
        """Shortens the timeout if the cancelled request is the current one."""
        if number == self._number and not self._is_loading:
            self.watchdog.hurry(LEFT_SECONDS)


def serve(
    requests: Requests,
    engines: Engines,
    write: Write,
    idle: float,
    progress: Progress,
) -> None:
    """Answers requests one after the other until none arrived for `idle` seconds.

    On a GPU it also returns when it is idle and a training run needs the memory that it holds, and
    when the GPU no longer works in this process. The next request then gets a new process.
    """
    left = idle
    while left > 0:
        line = requests.next(min(left, SECONDS_BETWEEN_LOOKS))
        if line is None:
            left -= SECONDS_BETWEEN_LOOKS
            if is_in_the_way(engines):
                return
            continue
        left = idle
        try:
            progress.begin(line.number)
            _answer(line, requests, engines, write, progress)
        finally:
            progress.end()
            write(Line(line.number))
        if engines.is_loaded and not engines.engine().device_answers:
            return


def _answer(
    line: Line, requests: Requests, engines: Engines, write: Write, progress: Progress
) -> None:
    number, request = line.number, line.content
    ended: set[int] = set()

    def send(update: PaneUpdate) -> None:
        if update.is_final:
            ended.add(update.pane)
        write(Line(number, update))

    def say(kind: UpdateKind, text: str) -> None:
        for pane in range(len(request.panes)):
            if pane not in ended:
                send(PaneUpdate(pane, kind, text))

    try:
        while not _answered(engines, request, send, say, lambda: requests.check(number), progress):
            pass  # torch cannot use the locked device: try again on the CPU
    except Stopped:
        pass
    except Exception as error:  # for example a lock file that cannot be written
        traceback.print_exc()
        say("error", f"The playground could not answer: {one_line(error)[:200]}")


def _answered(
    engines: Engines,
    request: GenerateRequest,
    send: Callable[[PaneUpdate], None],
    say: Callable[[UpdateKind, str], None],
    check: Callable[[], None],
    progress: Progress,
) -> bool:
    """Waits for the device and answers; `False` if torch cannot use that device."""
    device = engines.device
    name = "CPU" if device.id == CPU else device.label
    turn = DeviceLock(device.id)
    said = stopped = False

    def while_waiting() -> None:
        nonlocal said
        check()
        progress.watchdog.rest()
        if not said:
            said = True
            if device.memory_must_be_given_back and engines.is_loaded:
                engines.engine().unload()  # frees the models of an earlier prompt
            say(
                "status",
                f"A training run or a prompt grid is using the {name}; the answers go on after it.",
            )

    def yield_device() -> None:
        nonlocal said
        turn.give_way(while_waiting)
        said = False
        progress.load()

    def tell(update: PaneUpdate) -> None:
        progress.said(update)
        send(update)

    def between_tokens() -> float | YieldDevice:
        check()
        progress.watchdog.sign()
        return yield_if_wanted(turn, device, yield_device)

    with holding(turn, while_waiting):
        said = False
        progress.load()
        engine = engines.engine()
        if engines.device != device:
            return False
        try:
            engine.answer(request, tell, between_tokens)
        except Stopped:
            stopped = True  # not re-raised here: its traceback would keep the lanes in memory
        if device.memory_must_be_given_back and turn.is_wanted():
            engine.unload()
    if stopped:
        raise Stopped
    return True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ftlab.playground.worker")
    parser.add_argument("runs_folder", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    options = parser.parse_args(arguments)
    write = line_writer()
    progress = Progress(Watchdog())
    requests = Requests(progress.heard_stop)
    device = free_device()
    prepare_for_libraries(device.id)
    serve(requests, Engines(options.runs_folder, device), write, options.idle_seconds, progress)
    return 0


def line_writer() -> Write:
    """Reserves stdout for updates; output that libraries print goes to stderr, the log."""
    sys.stdout.flush()
    updates = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def write(line: Line) -> None:
        updates.write(line.dump())
        updates.flush()

    return write


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
