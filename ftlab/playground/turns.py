"""Lanes that take turns: each carries its answers one token further, until all are finished."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ftlab.errors import FtlabError, one_line
from ftlab.playground.answers import Answer
from ftlab.playground.giving_way import Check, GiveWay
from ftlab.playground.lanes import Lane
from ftlab.playground.protocol import NextToken, Stopped
from ftlab.playground.rows import RowAdapters
from ftlab.playground.sampling import divergence
from ftlab.playground.wearing import LowRank

BaseLogits = Callable[[Sequence[Answer]], Tensor]
"""The base's next-token logits for the prompts of these answers, fp32, (answers, vocabulary)."""


@dataclass
class LaneOfAnswers:
    """A lane and the answer in each of its rows.

    What a pane's first distribution is held against comes from the lane itself where it carries
    the base, so that both were rounded in the same way: `base_rows` says for each answer in which
    row of the prefill the base reads the same prompt (`None`: it is the base's own answer). Rows
    behind the answers are there for that alone and dropped after the prefill. A lane without the
    base asks `base_logits`.
    """

    lane: Lane
    answers: list[Answer]
    base_rows: list[int | None] | None = None
    base_logits: BaseLogits | None = None
    _open: list[Answer] = field(default_factory=list)
    _has_begun: bool = False

    def advance(self) -> None:
        """One token in each open answer."""
        if self._has_begun:
            self._take(self.lane.step([answer.ids[-1] for answer in self._open]))
        else:
            logits = self._begin()
            self._take(logits)
            if self.base_logits is not None:  # after the first token has its time
                self._compare(logits, self.base_logits(self.answers))
            self._has_begun = True
        for answer in self._open:
            answer.show()
        rows = [row for row, answer in enumerate(self._open) if not answer.is_finished]
        self._open = [self._open[row] for row in rows]
        if rows:
            self.lane.keep(rows)

    def read_again(self) -> None:
        """Brings a new lane to where these answers stood, if they had begun before it was made."""
        if self.answers[0].ids:
            self._open = list(self.answers)
            self.lane.prefill()
            self._has_begun = True

    @property
    def is_finished(self) -> bool:
        return self._has_begun and not self._open

    def paused(self, seconds: float) -> None:
        """Leaves the time out that a training run had the device."""
        for answer in self._open if self._has_begun else self.answers:
            answer.shift(seconds)

    def fail(self, error: Exception) -> None:
        sentence = say(error, "This pane could not answer")
        for answer in self.answers:
            answer.fail(sentence)

    def _begin(self) -> Tensor:
        self._open = list(self.answers)
        logits = self.lane.prefill()
        if self.base_rows is not None:
            for answer, row, base_row in zip(
                self.answers, logits[: len(self.answers)], self.base_rows, strict=True
            ):
                if base_row is not None:
                    answer.tell(next_token(answer, row, logits[base_row]))
        self.lane.keep(range(len(self.answers)))
        return logits[: len(self.answers)]

    def _take(self, logits: Tensor) -> None:
        likeliest = logits.argmax(dim=-1).tolist()
        for answer, best, row in zip(self._open, likeliest, logits, strict=True):
            plain = answer.chooser.is_plain
            answer.take(best if plain else answer.chooser.choose(row, answer.seen))

    def _compare(self, logits: Tensor, base: Tensor) -> None:
        for answer, row, other in zip(self.answers, logits, base, strict=True):
            answer.tell(next_token(answer, row, other))


def shared_lane(
    adapters: RowAdapters, worn: Sequence[LowRank], answers: Sequence[Answer], pad_id: int
) -> LaneOfAnswers:
    """The lane of all answers that share the base; `worn` is what each of them wears.

    The base reads every prompt of an adapter too, in a row of its own where it does not answer it.
    Answers that had begun were compared with it then.
    """
    wears = [adapters.wears(adapter) for adapter in worn]
    prompts = [answer.read for answer in answers]
    if answers[0].ids:
        adapters.rows = wears
        return LaneOfAnswers(Lane(adapters, prompts, pad_id), list(answers))
    base_row = {
        tuple(p): row for row, (p, w) in enumerate(zip(prompts, wears, strict=True)) if not w
    }
    for prompt in prompts[:]:
        if tuple(prompt) not in base_row:
            base_row[tuple(prompt)] = len(prompts)
            prompts.append(prompt)
    adapters.rows = [*wears, *[0] * (len(prompts) - len(wears))]
    base_rows = [
        base_row[tuple(answer.prompt_ids)] if adapter else None
        for answer, adapter in zip(answers, wears, strict=True)
    ]
    return LaneOfAnswers(Lane(adapters, prompts, pad_id), list(answers), base_rows)


def read_again(lanes: Sequence[LaneOfAnswers]) -> list[LaneOfAnswers]:
    """The lanes, each where its answers stood; an error of one is said in its panes.

    Those whose turn was next come first: otherwise the first lane would be ahead after every
    interruption, and the others slower by that.
    """
    ready = []
    for lane in lanes:
        try:
            lane.read_again()
        except Exception as error:
            lane.fail(error)
        else:
            ready.append(lane)
    return sorted(ready, key=lambda lane: len(lane.answers[0].ids))


def take_turns(lanes: Sequence[LaneOfAnswers], check: Check) -> GiveWay | None:
    """Carries all lanes to their end. An error of one is said in its panes; the others go on.

    Ends early where the device is wanted with its memory: `check`'s word on how to give way to
    that is returned, for when everything that this works on is let go.
    """
    open_lanes = list(lanes)
    while open_lanes:
        for lane in list(open_lanes):
            waited = check()
            if callable(waited):
                return waited
            if waited:
                for other in open_lanes:
                    other.paused(waited)
            try:
                lane.advance()
            except Stopped:
                raise
            except Exception as error:
                lane.fail(error)
                open_lanes.remove(lane)
                continue
            if lane.is_finished:
                open_lanes.remove(lane)
    return None


def next_token(answer: Answer, logits: Tensor, base: Tensor) -> NextToken:
    own, other = int(logits.argmax()), int(base.argmax())
    kl = divergence(logits, base)
    return NextToken(
        kl_nats=kl if math.isfinite(kl) else None,
        token=answer.spell(own),
        base_token=answer.spell(other),
        top1_changed=own != other,
    )


SMALLER = "ask for fewer tokens, or shorten the prompt"


def say(error: Exception, what: str, if_memory_is_out: str = SMALLER) -> str:
    """The sentence for an error; one that is ours to put right goes to the log as well."""
    if isinstance(error, FtlabError):
        return one_line(error)
    traceback.print_exc()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return f"{what}: out of memory; {if_memory_is_out}."
    return f"{what}: {one_line(error)[:200]} (the log has the traceback)."
