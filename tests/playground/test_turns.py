"""Lanes take turns, one token each; an error of one is reported in its panes only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ftlab.basics.errors import FtlabError
from ftlab.playground import decoding as answers_module
from ftlab.playground.decoding import (
    Answer,
    LaneOfAnswers,
    TokenChooser,
    divergence,
    new_tokens,
    say,
    take_turns,
)
from ftlab.playground.requests import GenerateRequest, PaneUpdate, Stopped

END, SIZE = 0, 8


class Letters:
    """A tokenizer whose tokens are the letters a to g; 0 ends."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(" abcdefg"[token] for token in ids if token or not skip_special_tokens)


@dataclass
class FakeLane:
    """Says of each row which token comes next, from a script that ends with the end token."""

    scripts: list[list[int]]
    breaks_at: int | None = None
    error: Exception = field(default_factory=lambda: RuntimeError("the lane broke"))
    rows: list[int] = field(default_factory=list)
    steps: int = 0

    def prefill(self) -> Tensor:
        self.rows = list(range(len(self.scripts)))
        return self._logits()

    def step(self, tokens: Sequence[int]) -> Tensor:
        assert list(tokens) == [self.scripts[row][self.steps - 1] for row in self.rows]
        return self._logits()

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def _logits(self) -> Tensor:
        if self.steps == self.breaks_at:
            raise self.error
        logits = torch.zeros(len(self.rows), SIZE)
        for place, row in enumerate(self.rows):
            logits[place, self.scripts[row][self.steps]] = 9.0
        self.steps += 1
        return logits


@pytest.fixture(autouse=True)
def every_text_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "SECONDS_BETWEEN_TEXTS", 0.0)


class Panes:
    """Answers of one pane each, and all updates in order."""

    def __init__(self) -> None:
        self.updates: list[PaneUpdate] = []

    def answer(self, pane: int, limit: int = 20) -> Answer:
        tokenizer: Any = Letters()
        return Answer(
            prompt_ids=[1],
            stop_ids=frozenset({END}),
            limit=limit,
            chooser=TokenChooser(GenerateRequest(("base",), "x"), torch.device("cpu")),
            tokenizer=tokenizer,
            send=self.updates.append,
            draft=PaneUpdate(pane, "status", ""),
        )

    def lane(self, *scripts: list[int], first: int = 0, **fake: Any) -> LaneOfAnswers:
        """A lane with an answer for each script, in the panes from `first` on."""
        lane: Any = FakeLane(list(scripts), **fake)
        return LaneOfAnswers(lane, [self.answer(first + row) for row in range(len(scripts))])

    def of(self, kind: str) -> list[tuple[int, str]]:
        return [(update.pane, update.text) for update in self.updates if update.kind == kind]


def check() -> None:
    return None


def test_lanes_take_turns() -> None:
    panes = Panes()
    take_turns([panes.lane([1, 2, 3, END]), panes.lane([4, 5, END], first=1)], check)
    assert [(update.pane, update.text) for update in panes.updates] == [
        (0, "a"), (1, "d"), (0, "ab"), (1, "de"), (0, "abc"), (1, "de"), (0, "abc"),
    ]  # fmt: skip
    assert panes.of("done") == [(1, "de"), (0, "abc")]


def test_rows_of_one_lane_end_independently() -> None:
    panes = Panes()
    lane = panes.lane([1, END], [2, 3, 4, END], [5, END])
    take_turns([lane], check)
    assert panes.of("done") == [(0, "a"), (2, "e"), (1, "bcd")]
    assert lane.lane.rows == [1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("script", "text"), [([1, 2, 3, 4, 5], "abc"), ([1, 2, END], "ab")], ids=["limit", "end token"]
)
def test_an_answer_ends_at_its_limit_or_its_end_token(script: list[int], text: str) -> None:
    """The end token is counted and not shown."""
    panes = Panes()
    lane: Any = FakeLane([script])
    take_turns([LaneOfAnswers(lane, [panes.answer(0, limit=3)])], check)
    (done,) = [update for update in panes.updates if update.kind == "done"]
    assert (done.text, done.tokens) == (text, 3)


def test_a_cancellation_between_tokens_ends_everything() -> None:
    panes = Panes()
    calls = 0

    def stop_at_the_fourth() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Stopped

    lanes = [panes.lane([1, 2, 3, END]), panes.lane([4, 5, END], first=1)]
    with pytest.raises(Stopped):
        take_turns(lanes, stop_at_the_fourth)
    assert panes.of("text") == [(0, "a"), (1, "d"), (0, "ab")]
    assert not panes.of("done")
    assert not panes.of("error")


@pytest.mark.parametrize("breaks_at", [0, 2])
def test_an_error_in_one_lane_is_reported_in_its_panes_only(
    breaks_at: int,
) -> None:
    panes = Panes()
    broken = panes.lane([1, 2, 3, END], [1, END, END], breaks_at=breaks_at)
    take_turns([broken, panes.lane([4, 5, 6, 7, END], first=2)], check)
    sentence = (
        "This pane could not answer: RuntimeError: the lane broke (the log has the traceback)."
    )
    panes_open = [0, 1] if breaks_at == 0 else [0]  # the other had ended before
    assert panes.of("error") == [(pane, sentence) for pane in panes_open]
    assert (2, "defg") in panes.of("done")
    partials = [update.partial for update in panes.updates if update.kind == "error"]
    assert partials[0] == ("" if breaks_at == 0 else "ab")


def test_a_comparison_that_fails_leaves_each_pane_with_one_end() -> None:
    panes = Panes()
    lane = panes.lane([1, 2], [END])

    def no_memory(answers: Sequence[Answer]) -> Tensor:
        raise MemoryError

    lane.base_logits = no_memory
    take_turns([lane], check)
    assert [pane for pane, _ in panes.of("error")] == [0, 1]
    assert not panes.of("done")


def test_the_comparison_with_the_base_is_not_in_the_time_to_the_first_token() -> None:
    panes = Panes()
    lane = panes.lane([END])

    def slow(answers: Sequence[Answer]) -> Tensor:
        time.sleep(1)
        return torch.zeros(1, SIZE)

    lane.base_logits = slow
    take_turns([lane], check)
    (done,) = panes.updates
    assert done.kind == "done"
    assert done.next_token is not None
    far = divergence(torch.tensor([9.0] + [0.0] * 7), torch.zeros(SIZE))
    assert done.next_token.kl_nats == pytest.approx(far), "of the pane from the base"
    assert done.first_token_seconds is not None
    assert done.first_token_seconds < 1


@pytest.mark.parametrize(
    ("context", "most", "prompt", "soft", "allowed"),
    [
        (128, 96, 100, 0, 28), (128, 96, 100, 8, 20), (128, 20, 100, 8, 20), (128, 5, 100, 8, 5),
        (128, 96, 119, 8, 1), (128, 96, 120, 8, None), (None, 96, 10_000, 8, 96),
    ],
)  # fmt: skip
def test_an_answer_has_as_many_tokens_as_the_context_leaves(
    context: int | None, most: int, prompt: int, soft: int, allowed: int | None
) -> None:
    base: Any = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=context))
    if allowed is None:
        with pytest.raises(FtlabError, match="120 tokens and 8 soft tokens before it"):
            new_tokens(base, most, prompt, soft)
    else:
        assert new_tokens(base, most, prompt, soft) == allowed


@pytest.mark.parametrize("waits_at", [1, 3])
def test_pauses_are_excluded_from_the_times(waits_at: int) -> None:
    """`check` returns an hour of waiting."""
    panes = Panes()
    calls = 0

    def wait_once() -> float:
        nonlocal calls
        calls += 1
        return 3600.0 if calls == waits_at else 0.0

    lanes = [panes.lane([1, 2, 3, END]), panes.lane([4, 5, END], first=1)]
    began = [lane.answers[0].began for lane in lanes]
    take_turns(lanes, wait_once)
    shifts = [lane.answers[0].began - at for lane, at in zip(lanes, began, strict=True)]
    assert shifts == pytest.approx([3600.0, 3600.0])


def test_a_wait_between_two_tokens_does_not_slow_the_rate() -> None:
    panes = Panes()
    calls = 0

    def wait_between() -> float:
        nonlocal calls
        calls += 1
        if calls != 3:
            time.sleep(0.01)
            return 0.0
        time.sleep(1)
        return 1.0

    take_turns([panes.lane([1, 2, 3, 4, END])], wait_between)
    done = panes.updates[-1]
    assert done.tokens_per_second is not None
    assert done.tokens_per_second > 4, "a second of waiting is in the rate"
    assert done.first_token_seconds is not None
    assert done.first_token_seconds < 0.2


def test_the_rate_is_that_of_the_tokens_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    panes = Panes()
    answer = panes.answer(0, limit=3)
    answer.began = 10.0
    moments = iter([12.0, 14.0, 20.0])
    monkeypatch.setattr(answers_module, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    for token in (1, 2, 3):
        answer.take(token)
    answer.show()
    (done,) = panes.updates
    assert (done.first_token_seconds, done.tokens_per_second) == (2.0, 2 / 8)


def test_an_incomplete_character_is_not_shown() -> None:
    class Halves(Letters):
        def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
            return "a\ufffd" if len([i for i in ids if i]) == 1 else "aß"

    panes = Panes()
    lane = panes.lane([1, 2, END])
    halves: Any = Halves()
    lane.answers[0].tokenizer = halves
    take_turns([lane], check)
    assert panes.of("text") == [(0, "a"), (0, "aß")]


def test_the_rate_of_texts_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "SECONDS_BETWEEN_TEXTS", 60.0)
    panes = Panes()
    take_turns([panes.lane([1, 2, 3, END])], check)
    assert [update.kind for update in panes.updates] == ["text", "done"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FtlabError("Do this\ninstead."), "Do this instead."),
        (MemoryError(), "It: out of memory; ask for fewer tokens, or shorten the prompt."),
        (torch.OutOfMemoryError("CUDA"), "It: out of memory; ask for fewer tokens, or shorten"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 GB"), "It: out of memory"),
        (ValueError("odd\nthing"), "It: ValueError: odd thing (the log has the traceback)."),
    ],
)
def test_an_error_becomes_one_sentence(error: Exception, sentence: str) -> None:
    said = say(error, "It")
    assert said.startswith(sentence)
    assert "\n" not in said
