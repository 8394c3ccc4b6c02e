"""Generates answers token by token: lanes (batches of rows of one model) take turns.

We do not use transformers' `generate`, because it runs one batch to its end. Here the lanes take
turns after every token, so that all panes stream at the same time.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

import torch
from peft import PeftModel
from torch import FloatTensor, LongTensor, Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ftlab.basics.errors import FtlabError, one_line
from ftlab.models.decoding import OpenRows
from ftlab.models.generation import generation_inputs, left_padded
from ftlab.playground.attach import LowRank
from ftlab.playground.giving_way import Check, YieldDevice
from ftlab.playground.requests import GenerateRequest, NextToken, PaneUpdate, Stopped, UpdateKind
from ftlab.playground.rows import RowAdapters
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.tasks.spec import Message


class Lane:
    """A batch of rows of one model.

    `prefill` and `step` return fp32 logits of the next token, (rows, vocabulary).
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel | RowAdapters, prompts: Sequence[Sequence[int]],
        pad_id: int,
    ) -> None:  # fmt: skip
        self._adapters = model if isinstance(model, RowAdapters) else None
        self._model = model.model if isinstance(model, RowAdapters) else model
        self._prompts = list(prompts)
        self._pad_id = pad_id
        self._open: OpenRows | None = None

    @property
    def rows(self) -> OpenRows:
        """What the prompts became; only after `prefill`."""
        assert self._open is not None
        return self._open

    def prefill(self) -> Tensor:
        """Reads the prompts."""
        device = next(self._model.parameters()).device
        batch = left_padded(self._prompts, self._pad_id, device)
        callee, inputs = generation_inputs(self._model, batch)
        base: Any = (
            self._model.get_base_model() if isinstance(self._model, PeftModel) else self._model
        )
        prefix = inputs.pop("cache", None)
        cache = DynamicCache(config=base.config) if prefix is None else prefix
        self._open = OpenRows(base, callee, cache, inputs.pop("attention_mask"))
        return self._open.read(**inputs)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads one more token in each row."""
        return self.rows.step(tokens)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows."""
        if len(rows) == len(self.rows.mask):
            return
        self.rows.keep(rows)
        if self._adapters is not None:
            self._adapters.rows = [self._adapters.rows[row] for row in rows]


class Sampling(Protocol):
    """How a row's tokens are chosen; both kinds of requests have it."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def seed(self) -> int: ...


class TokenChooser:
    """Chooses the tokens of one row. Each row has its own seed, so other rows have no effect on it.

    Penalty, temperature and top-p are transformers' classes, in the same order as in `generate`.
    """

    def __init__(self, request: Sampling, device: torch.device) -> None:
        self._draws = request.temperature > 0
        self._processors = LogitsProcessorList()
        if request.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(float(request.repetition_penalty))
            self._processors.append(penalty)
        if self._draws and request.temperature != 1:
            self._processors.append(TemperatureLogitsWarper(float(request.temperature)))
        if self._draws and request.top_p < 1:
            self._processors.append(TopPLogitsWarper(float(request.top_p)))
        self._generator = torch.Generator(device).manual_seed(request.seed)

    @property
    def is_plain(self) -> bool:
        """Whether it always takes the token with the largest logit."""
        return not self._draws and not self._processors

    def choose(self, logits: Tensor, seen: Sequence[int]) -> int:
        """Returns the next token id; `logits` is (vocabulary,), `seen` prompt and answer so far."""
        scores = logits[None]
        if self._processors:
            ids = torch.tensor(seen, device=logits.device)[None]
            scores = self._processors(cast(LongTensor, ids), cast(FloatTensor, scores))
        if not self._draws:
            return int(scores.argmax())
        probabilities = scores.softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def divergence(logits: Tensor, base: Tensor) -> float:
    """KL(softmax(logits) || softmax(base)) in nats, of two rows of fp32 logits.

    NaN if a model's logits contain NaN, so that this never counts as equal to the base.
    """
    own, other = logits.double().log_softmax(-1), base.double().log_softmax(-1)
    terms = torch.where(own == -torch.inf, 0.0, own.exp() * (own - other))
    return float(terms.sum().clamp(min=0.0))


SECONDS_BETWEEN_TEXTS = 0.05
"""Minimum interval between text updates: a fast device is faster than a page can show."""


@dataclass
class Answer:
    """One answer, a row of a lane. `send` receives its updates; `draft` holds its pane's facts.

    It ends with one of the `stop_ids`, or after `limit` tokens.
    """

    prompt_ids: list[int]
    stop_ids: frozenset[int]
    limit: int
    chooser: TokenChooser
    tokenizer: PreTrainedTokenizerBase
    send: Callable[[PaneUpdate], None]
    draft: PaneUpdate
    keeps_edges: bool = False
    ids: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    has_ended: bool = False
    """Whether its "done" or "error" was sent."""

    _first: float = 0.0
    _last: float = 0.0
    _sent: float = 0.0

    @property
    def is_finished(self) -> bool:
        return bool(self.ids) and (self.ids[-1] in self.stop_ids or len(self.ids) >= self.limit)

    @property
    def read(self) -> list[int]:
        """The tokens that its lane has read so far: all except the last chosen token."""
        return self.prompt_ids + self.ids[:-1]

    def say(self, sentence: str) -> None:
        """Sends a status."""
        self.send(self._update("status", sentence))

    def compare(self, logits: Tensor, base: Tensor) -> None:
        """Stores how its first logits differ from the base's, both (vocabulary,)."""
        own, other = int(logits.argmax()), int(base.argmax())
        kl = divergence(logits, base)
        next_token = NextToken(
            kl_nats=kl if math.isfinite(kl) else None,
            token=str(self.tokenizer.decode([own])),
            base_token=str(self.tokenizer.decode([other])),
            top1_changed=own != other,
        )
        self.draft = replace(self.draft, next_token=next_token)

    def take(self, token: int) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.ids.append(token)

    def show(self) -> None:
        """Sends the final update if finished, else the text so far, at a limited rate."""
        if self.is_finished:
            self._end(self._update("done", self.text()))
        elif self._last - self._sent >= SECONDS_BETWEEN_TEXTS:
            self._sent = self._last
            # A character of several tokens decodes to U+FFFD until its last token is generated.
            self.send(self._update("text", self.text().rstrip("\ufffd")))

    def fail(self, sentence: str) -> None:
        """Ends the answer with an error, unless it has already ended."""
        if not self.has_ended:
            self._end(replace(self._update("error", sentence), partial=self.text()))

    def shift(self, seconds: float) -> None:
        """Excludes a pause from the measured times: other work used the device."""
        self.began += seconds
        if self.ids:
            self._first += seconds
            self._last += seconds

    def text(self) -> str:
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
        return text if self.keeps_edges else text.strip()

    def _end(self, update: PaneUpdate) -> None:
        self.has_ended = True
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


BaseLogits = Callable[[Sequence[Answer]], Tensor]
"""Returns the base's next-token logits for these answers' prompts, fp32, (answers, vocabulary)."""


@dataclass
class LaneOfAnswers:
    """A lane and the answer in each of its rows.

    A pane's first next-token distribution is compared with the base's. If the lane contains the
    base, both come from the same batch, so their rounding is the same: `base_rows` gives for each
    answer the prefill row in which the base reads the same prompt (`None`: it is the base's own
    answer). Rows after the answers serve only this purpose and are dropped after the prefill. A
    lane without the base calls `base_logits`.
    """

    lane: Lane
    answers: list[Answer]
    base_rows: list[int | None] | None = None
    base_logits: BaseLogits | None = None
    _open: list[Answer] = field(default_factory=list)
    _has_begun: bool = False

    def advance(self) -> None:
        """Generates one token in each open answer."""
        if self._has_begun:
            self._take(self.lane.step([answer.ids[-1] for answer in self._open]))
        else:
            logits = self._begin()
            self._take(logits)
            if self.base_logits is not None:  # after the time of the first token is recorded
                base = self.base_logits(self.answers)
                for answer, row, base_row in zip(self.answers, logits, base, strict=True):
                    answer.compare(row, base_row)
            self._has_begun = True
        for answer in self._open:
            answer.show()
        rows = [row for row, answer in enumerate(self._open) if not answer.is_finished]
        self._open = [self._open[row] for row in rows]
        if rows:
            self.lane.keep(rows)

    def read_again(self) -> None:
        """Prefills a new lane with the tokens so far, if its answers started before it was made."""
        if self.answers[0].ids:
            self._open = list(self.answers)
            self.lane.prefill()
            self._has_begun = True

    @property
    def is_finished(self) -> bool:
        return self._has_begun and not self._open

    def paused(self, seconds: float) -> None:
        """Excludes the time in which other work used the device."""
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
                    answer.compare(row, logits[base_row])
        self.lane.keep(range(len(self.answers)))
        return logits[: len(self.answers)]

    def _take(self, logits: Tensor) -> None:
        likeliest = logits.argmax(dim=-1).tolist()
        for answer, best, row in zip(self._open, likeliest, logits, strict=True):
            chooser, seen = answer.chooser, answer.prompt_ids + answer.ids
            answer.take(best if chooser.is_plain else chooser.choose(row, seen))


def shared_lane(
    adapters: RowAdapters, attached: Sequence[LowRank], answers: Sequence[Answer], pad_id: int
) -> LaneOfAnswers:
    """Creates the lane of all answers on the shared base; `attached` has each answer's adapter.

    The base also reads every prompt of an adapter, in an extra row if it does not answer that
    prompt. Answers that started earlier were already compared, so they need no extra row.
    """
    own = [adapters.number_of(adapter) for adapter in attached]
    prompts = [answer.read for answer in answers]
    if answers[0].ids:
        adapters.rows = own
        return LaneOfAnswers(Lane(adapters, prompts, pad_id), list(answers))
    base_row = {tuple(prompts[row]): row for row, adapter in enumerate(own) if not adapter}
    for prompt in prompts[:]:
        if tuple(prompt) not in base_row:
            base_row[tuple(prompt)] = len(prompts)
            prompts.append(prompt)
    adapters.rows = [*own, *[0] * (len(prompts) - len(own))]
    base_rows = [
        base_row[tuple(answer.prompt_ids)] if adapter else None
        for answer, adapter in zip(answers, own, strict=True)
    ]
    return LaneOfAnswers(Lane(adapters, prompts, pad_id), list(answers), base_rows)


def read_again(lanes: Sequence[LaneOfAnswers]) -> list[LaneOfAnswers]:
    """Prefills all lanes with the tokens so far; an error of a lane is reported in its panes.

    The result is sorted by progress, least first. Otherwise every interruption would put the first
    lane further ahead of the others.
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


def take_turns(lanes: Sequence[LaneOfAnswers], check: Check) -> YieldDevice | None:
    """Runs all lanes to their end. An error of a lane is reported in its panes; others continue.

    Returns early if another process needs the device with its memory. It then returns the function
    from `check` that yields the device; the caller frees the models and lanes before calling it.
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


SMALLER = "ask for fewer tokens, or shorten the prompt"


def say(error: Exception, what: str, if_memory_is_out: str = SMALLER) -> str:
    """The sentence for an error; an unexpected error is also written to the log."""
    if isinstance(error, FtlabError):
        return one_line(error)
    traceback.print_exc()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return f"{what}: out of memory; {if_memory_is_out}."
    return f"{what}: {one_line(error)[:200]} (the log has the traceback)."


SendEach = Callable[[int, PaneUpdate], None]
"""Receives the prompt's index and the pane's update."""


class AnswerBuilder:
    """Creates the answers of one request: formats its prompts for one base model."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: GenerateRequest,
        prompts: Sequence[str],
        send: SendEach,
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._formatter = PromptFormatter(TransformersTokenizer(tokenizer))
        self._request = request
        self._prompts = prompts
        self._send = send
        self._stop_ids = frozenset(self._formatter.stop_ids())
        self._device = next(base.parameters()).device
        self.pad_id = int(tokenizer.pad_token_id)

    def answers(self, pane: PaneUpdate, soft_tokens: int) -> list[Answer]:
        """Creates one answer per prompt, based on the pane's first update (its index, note, hash).

        A prompt that is too long for the model is reported in its pane.
        """
        answers = []
        for number, prompt in enumerate(self._prompts):
            send = partial(self._send, number)
            try:
                ids = self._prompt_ids(pane.pane, prompt)
                limit = self._limit(len(ids), soft_tokens)
            except Exception as error:
                send(PaneUpdate(pane.pane, "error", say(error, "The prompt could not be read")))
                continue
            answers.append(
                Answer(
                    prompt_ids=ids,
                    stop_ids=self._stop_ids,
                    limit=limit,
                    chooser=TokenChooser(self._request, self._device),
                    tokenizer=self._tokenizer,
                    send=send,
                    draft=pane,
                    keeps_edges=self._request.mode == "completion",
                )
            )
        return answers

    def base_logits(self) -> BaseLogits:
        """Returns a function for the base's first logits, cached by prompts."""
        known: dict[tuple[tuple[int, ...], ...], Tensor] = {}

        def logits(answers: Sequence[Answer]) -> Tensor:
            prompts = tuple(tuple(answer.prompt_ids) for answer in answers)
            if prompts not in known:
                known[prompts] = Lane(self._base, prompts, self.pad_id).prefill()
            return known[prompts]

        return logits

    def _prompt_ids(self, place: int, prompt: str) -> list[int]:
        if self._request.mode == "completion":
            return self._formatter.plain_ids(prompt)
        system = self._request.system.strip()
        first = [Message("system", system)] if system else []
        history = self._request.history(place)
        return self._formatter.prompt_ids([*first, *history, Message("user", prompt)])

    def _limit(self, prompt: int, soft: int) -> int:
        """The number of new tokens: as requested, or as many as fit in the context."""
        return new_tokens(self._base, self._request.max_new_tokens, prompt, soft)


def new_tokens(base: PreTrainedModel, most: int, prompt: int, soft: int) -> int:
    """The number of new tokens: `most`, or as many as fit in the base's context after a prompt of
    that length and so many soft tokens. Raises `FtlabError` if none does."""
    context = getattr(base.config, "max_position_embeddings", None)
    if context is None:
        return most
    if prompt + soft >= context:
        parts = f"{prompt:,} tokens" + (f" and {soft} soft tokens before it" if soft else "")
        raise FtlabError(
            f"The prompt has {parts}; the model's context is {context:,} tokens and the answer "
            "needs some of them, so shorten the prompt or begin a new chat."
        )
    return min(most, int(context) - prompt - soft)
