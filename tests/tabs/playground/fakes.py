"""Panes, updates and a client for the Playground tab's tests; no process and no model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftlab.basics.errors import InvalidRequest
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import PaneSource
from ftlab.playground.requests import GenerateRequest, NextToken, PaneUpdate, validate_generate
from ftlab.tabs.playground.session import Pane, Session
from ftlab.tabs.playground.view import SETTINGS
from ftlab.tasks.reference import TaskReference

HELD_OUT = HeldOut()
"""Shared by all tests, as reading the examples takes half a second."""

SHA = "c41e" + "0" * 56 + "9b07"
SQL = TaskReference("bundled", "sql")
SETTINGS_AT_FIRST: dict[str, Any] = dict(
    zip(SETTINGS, ("bf16", 96.0, 0, 1, 1, 0.0, ""), strict=True)
)
"""The values of the components of the settings before anybody changes one."""

BASE_SOURCE = PaneSource("base", "Base")


def lora(name: str = "run-1", label: str = "LoRA r=4", **changes: Any) -> PaneSource:
    return replace(PaneSource(name, label, "lora", folder=Path("/gone"), task=SQL), **changes)


def status(pane: int, words: str) -> PaneUpdate:
    return PaneUpdate(pane, "status", words)


def text(pane: int, words: str, **more: Any) -> PaneUpdate:
    return PaneUpdate(pane, "text", words, **more)


def done(pane: int, words: str, **more: Any) -> PaneUpdate:
    return PaneUpdate(pane, "done", words, tokens=len(words.split()), **more)


def failed(pane: int, sentence: str, **more: Any) -> PaneUpdate:
    return PaneUpdate(pane, "error", sentence, **more)


def next_token(kl_nats: float = 0.25, token: str = "SELECT", base_token: str = "The") -> NextToken:
    return NextToken(kl_nats, token, base_token, token != base_token)


class ScriptedClient(PlaygroundClient):
    """Answers every request with these updates and keeps the requests; starts no process.

    Without updates each pane says the prompt and its own name. `before` is called with the number
    of each update as it is about to come; `left` counts the answers that nobody read to their end.
    """

    def __init__(self, *updates: PaneUpdate) -> None:
        super().__init__(Path("/gone"))
        self.requests: list[GenerateRequest] = []
        self.left = 0
        self.before: Callable[[int], object] = lambda number: None
        self._updates = updates

    def generate(
        self, request: GenerateRequest, visitor: str = ""
    ) -> Generator[PaneUpdate, None, None]:
        errors = validate_generate(request)
        if errors:
            raise InvalidRequest(errors)
        self.requests.append(request)
        return self._scripted(request)

    def _scripted(self, request: GenerateRequest) -> Generator[PaneUpdate, None, None]:
        answers = [done(i, f"{request.prompt} by {name}") for i, name in enumerate(request.panes)]
        try:
            for number, update in enumerate(self._updates or answers):
                self.before(number)
                yield update
        except GeneratorExit:
            self.left += 1
            raise


def session_of(*sources: PaneSource | None, **changes: Any) -> Session:
    """A session with these panes, the rest empty."""
    panes = [Pane(source) for source in sources]
    return Session(panes + [Pane()] * (6 - len(panes)), **changes)


def answers_of(session: Session) -> list[str]:
    return [pane.answer for pane in session.shown() if pane.source]


def names_of(session: Session) -> Sequence[str]:
    return [pane.name for pane in session.panes if pane.source]
