"""One answer while it grows: its tokens, its text, its times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from ftlab.playground.protocol import NextToken, PaneUpdate, UpdateKind
from ftlab.playground.sampling import TokenChooser

SECONDS_BETWEEN_TEXTS = 0.05
"""A fast device makes more tokens than a page can show."""


@dataclass(frozen=True)
class Ending:
    """What ends an answer: one of the stop ids, or the number of tokens."""

    stop_ids: frozenset[int]
    limit: int


@dataclass
class Answer:
    """A row of a lane. `send` gets its updates; `draft` holds what is known of its pane."""

    prompt_ids: list[int]
    ending: Ending
    chooser: TokenChooser
    tokenizer: PreTrainedTokenizerBase
    send: Callable[[PaneUpdate], None]
    draft: PaneUpdate
    keeps_edges: bool = False
    ids: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    _first: float = 0.0
    _last: float = 0.0
    _sent: float = 0.0
    _has_ended: bool = False

    @property
    def seen(self) -> list[int]:
        return self.prompt_ids + self.ids

    @property
    def is_finished(self) -> bool:
        return bool(self.ids) and (
            self.ids[-1] in self.ending.stop_ids or len(self.ids) >= self.ending.limit
        )

    @property
    def read(self) -> list[int]:
        """What its lane has read before the coming turn: all but the token chosen last."""
        return self.prompt_ids + self.ids[:-1]

    @property
    def has_ended(self) -> bool:
        """Whether its "done" or "error" was sent."""
        return self._has_ended

    def say(self, sentence: str) -> None:
        """Sends what it waits for."""
        self.send(self._update("status", sentence))

    def tell(self, next_token: NextToken) -> None:
        self.draft = replace(self.draft, next_token=next_token)

    def take(self, token: int) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.ids.append(token)

    def show(self) -> None:
        """Sends the end, and now and then the text so far."""
        if self.is_finished:
            self._end(self._update("done", self.text()))
        elif self._last - self._sent >= SECONDS_BETWEEN_TEXTS:
            self._sent = self._last
            # A character of several tokens decodes to U+FFFD until its last one is there.
            self.send(self._update("text", self.text().rstrip("\ufffd")))

    def fail(self, sentence: str) -> None:
        """Ends it with an error, unless it had ended."""
        if not self._has_ended:
            self._end(replace(self._update("error", sentence), partial=self.text()))

    def shift(self, seconds: float) -> None:
        """Moves the clock on: so long the device was somebody else's."""
        self.began += seconds
        if self.ids:
            self._first += seconds
            self._last += seconds

    def spell(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def text(self) -> str:
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
        return text if self.keeps_edges else text.strip()

    def _end(self, update: PaneUpdate) -> None:
        self._has_ended = True
        self.send(update)

    def _update(self, kind: UpdateKind, text: str) -> PaneUpdate:
        took = self._last - self._first
        return replace(
            self.draft,
            kind=kind,
            text=text,
            tokens=len(self.ids),
            first_token_seconds=self._first - self.began if self.ids else None,
            tokens_per_second=(len(self.ids) - 1) / took if took > 0 else None,
        )
