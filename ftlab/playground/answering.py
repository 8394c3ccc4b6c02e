"""One request while it is answered: what each pane has said so far. Nothing here is on a device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ftlab.errors import FtlabError
from ftlab.playground.answers import Answer
from ftlab.playground.desk import SendEach
from ftlab.playground.panes import PaneSource
from ftlab.playground.protocol import WAITING, GenerateRequest, PaneUpdate

LOADING_AGAIN = "Loading the base model again …"

KEPT_FOR_LOADING = 1.0
"""How long the device is kept after an interruption, as a share of what loading everything again
took. Without it two prompts that wait for each other would only load, in turn and for ever."""


@dataclass
class Answering:
    """The answers of a request by the pane's place, from when the pane's adapter was first put on.

    They keep tokens, random generators and proofs through an interruption; models, caches and
    logits are made again. A pane that cannot answer at all has an empty list.
    """

    request: GenerateRequest
    prompts: Sequence[str]
    send: SendEach
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    kept_until: float = 0.0
    _interrupted: float | None = None
    _back: float = 0.0

    @property
    def open_places(self) -> list[int]:
        """The panes that have an answer to give, begun or not."""
        places = range(len(self.request.panes))
        return [p for p in places if p not in self.answers or self.unfinished(p)]

    def unfinished(self, place: int) -> list[Answer]:
        return [answer for answer in self.answers[place] if not answer.has_ended]

    def say(self, sentence: str) -> None:
        """Says in every open pane what is being waited for."""
        for place in self.open_places:
            for answer in self.unfinished(place) if place in self.answers else ():
                answer.say(sentence)
            if place not in self.answers:
                self._tell(PaneUpdate(place, "status", sentence))

    def fail(self, place: int, sentence: str) -> None:
        """Ends what is open in a pane with an error; the text so far is kept."""
        if place not in self.answers:
            self._tell(PaneUpdate(place, "error", sentence))
            self.answers[place] = []
        for answer in self.unfinished(place):
            answer.fail(sentence)

    def fail_all(self, sentence: str) -> None:
        for place in self.open_places:
            self.fail(place, sentence)

    def check_same(self, place: int, source: PaneSource, sha256: str) -> None:
        """Raises `FtlabError` if other weights go by the name that had answered until now."""
        answers = self.answers.get(place)
        if answers and answers[0].draft.adapter_sha256 != sha256:
            raise FtlabError(
                f"The weights of '{source.label}' were replaced while its answer waited; send the "
                "prompt again."
            )

    def interrupt(self) -> None:
        """From here on the time does not count, until `go_on`."""
        self._interrupted = time.perf_counter()

    def come_back(self) -> None:
        """The device is this request's again, and everything is to be loaded."""
        self._back = time.perf_counter()
        self.say(LOADING_AGAIN)

    def go_on(self) -> None:
        """After an interruption: leaves out the time that it took, loading included."""
        if self._interrupted is None:
            return
        now = time.perf_counter()
        for place in self.open_places:
            for answer in self.unfinished(place):
                answer.shift(now - self._interrupted)
        self.kept_until = now + KEPT_FOR_LOADING * (now - self._back)
        self._interrupted = None
        self.say(WAITING)

    def _tell(self, update: PaneUpdate) -> None:
        for prompt in range(len(self.prompts)):
            self.send(prompt, update)
