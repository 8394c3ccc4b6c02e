"""The worker process of the endpoint: answers many chats at once with one base model in memory.

Run as: python -m ftlab.playground.chat_worker RUNS_FOLDER --model MODEL --precision fp32
        --names base RUN ...

Requests are JSON lines on stdin, updates are JSON lines on stdout, as in the playground's worker.
Chats that arrive within `GATHER_SECONDS` begin together; later ones join between two tokens. The
device is held while chats are open, and other work gets its turn between two tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.locks import DeviceLock, free_device, holding
from ftlab.basics.processes import Line, Signs, Watchdog
from ftlab.models.libraries import prepare_for_libraries
from ftlab.playground.chat import ChatUpdate, Offer, chat_from_json
from ftlab.playground.giving_way import YieldDevice, yield_if_wanted
from ftlab.playground.worker import (
    ANSWER_SECONDS,
    LOADING_SECONDS,
    SECONDS_BETWEEN_LOOKS,
    Engines,
    Requests,
    Write,
    is_in_the_way,
    line_writer,
)
from ftlab.settings.generation import PRECISIONS

if TYPE_CHECKING:
    from ftlab.playground.chat_engine import ChatEngine

GATHER_SECONDS = 0.01
"""Clients that ask together differ by milliseconds; reading their prompts together is faster."""


class ChatWorker:
    """Answers the chats of `requests`."""

    def __init__(
        self, requests: Requests, engines: Engines, offer: Offer, write: Write, watchdog: Signs
    ) -> None:
        self._requests, self._engines, self._offer = requests, engines, offer
        self._write, self._watchdog = write, watchdog
        self._chats: ChatEngine | None = None

    def serve(self, idle: float) -> None:
        """Answers until no chat arrived for `idle` seconds, the GPU is needed or no longer works;
        the next request then gets a new process."""
        left = idle
        while left > 0:
            line = self._requests.next(min(left, SECONDS_BETWEEN_LOOKS))
            if line is None:
                left -= SECONDS_BETWEEN_LOOKS
                if is_in_the_way(self._engines):
                    return
                continue
            left = idle
            time.sleep(GATHER_SECONDS)
            self._answer([line, *self._requests.arrived()])
            self._watchdog.rest()
            if self._engines.is_loaded and not self._engines.engine().device_answers:
                return

    def _answer(self, lines: list[Line]) -> None:
        try:
            while not self._answered(lines):
                pass  # torch cannot use the locked device: try again on the CPU
        except Exception as error:
            reason = one_line(error)
            if not isinstance(error, FtlabError):
                traceback.print_exc()
                reason = f"The endpoint could not answer: {reason[:200]}"
            if self._chats is not None:
                self._chats.fail_all(reason)
            for line in lines:  # those that were not taken over
                self._send(line.number, ChatUpdate("error", reason))

    def _answered(self, lines: list[Line]) -> bool:
        """Waits for the device and answers; `False` if torch cannot use that device. Removes from
        `lines` those that the engine has taken over."""
        device = self._engines.device
        turn = DeviceLock(device.id)
        kept_until = -math.inf

        def while_waiting() -> None:
            self._watchdog.rest()
            if device.memory_must_be_given_back and self._chats is not None:
                self._chats.unload()

        def give_way() -> None:
            turn.give_way(while_waiting)
            self._watchdog.expect(ANSWER_SECONDS)

        def between_tokens() -> float | YieldDevice:
            self._watchdog.sign()
            if time.monotonic() < kept_until:
                return 0.0
            return yield_if_wanted(turn, device, give_way)

        with holding(turn, while_waiting):
            self._watchdog.expect(LOADING_SECONDS)
            engine = self._engines.engine()
            if self._engines.device != device:
                return False
            from ftlab.playground.chat_engine import ChatEngine
            from ftlab.playground.engine import KEPT_FOR_LOADING

            if self._chats is None:
                self._chats = ChatEngine(engine, self._offer, self._send)
            self._chats.load()
            self._chats.take(line for line in lines if not self._requests.is_stopped(line.number))
            lines.clear()
            while True:
                self._watchdog.expect(ANSWER_SECONDS)
                wanted = self._chats.run(
                    self._requests.arrived, self._requests.is_stopped, between_tokens
                )
                if wanted is None:
                    break
                wanted()
                self._watchdog.expect(LOADING_SECONDS)
                began = time.monotonic()
                self._chats.load()
                now = time.monotonic()
                kept_until = now + KEPT_FOR_LOADING * (now - began)
            if device.memory_must_be_given_back and turn.is_wanted():
                self._chats.unload()
        return True

    def _send(self, number: int, update: ChatUpdate) -> None:
        self._write(Line(number, update))
        if update.kind != "text":
            self._write(Line(number))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ftlab.playground.chat_worker")
    parser.add_argument("runs_folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--precision", choices=list(PRECISIONS), required=True)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--idle-seconds", type=float, default=math.inf)
    options = parser.parse_args(arguments)
    write = line_writer()
    requests = Requests(lambda number: None, chat_from_json)
    device = free_device()
    prepare_for_libraries(device.id)
    offer = Offer(options.model, options.precision, tuple(options.names))
    engines = Engines(options.runs_folder, device)
    ChatWorker(requests, engines, offer, write, Watchdog()).serve(options.idle_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
