"""Answers chats of different adapters as rows of one batch, which join and leave at any token.

The base and every plain LoRA share one lane; every other source has its own. A chat that arrives is
read in a batch of its own, between two tokens of the others, and its row then joins its lane
(continuous batching; Yu et al. 2022, "Orca", section 3.1). A model whose cache is not all keys and
values (a sliding window, a state) cannot be joined: later chats get another lane, and lanes take
turns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from torch import Tensor, inference_mode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import Line
from ftlab.models.decoding import OpenRows
from ftlab.models.generation import virtual_tokens
from ftlab.playground.attach import Attached, shares_a_batch
from ftlab.playground.chat import (
    ROWS_AT_ONCE,
    ChatRequest,
    ChatUpdate,
    Offer,
    before_stop,
    surely_before_stop,
)
from ftlab.playground.decoding import (
    SECONDS_BETWEEN_TEXTS,
    SMALLER,
    Lane,
    TokenChooser,
    new_tokens,
    say,
)
from ftlab.playground.engine import SPARE_BYTES, Engine, free_on
from ftlab.playground.giving_way import Check, YieldDevice
from ftlab.playground.panes import PaneSource, line_up
from ftlab.playground.rows import RowAdapters
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer

TOKENS_AT_ONCE = 4096
"""Of prompts that are read between two tokens of the others, padding included (a longer prompt is
read alone): else the others would wait for all of them."""

COPIES = 2
"""Of all keys and values, while a chat joins the others."""

PADDING_TO_DROP = 64
"""Tokens of padding before all rows, left by longer ones, that are worth a copy of the cache."""

Model = PreTrainedModel | PeftModel | RowAdapters
SendTo = Callable[[int, ChatUpdate], None]
"""Receives the request's number and an update of it."""


@dataclass
class ChatAnswer:
    """The answer to one chat, a row of a lane, with the `number` of its request."""

    number: int
    request: ChatRequest
    prompt_ids: list[int]
    stop_ids: frozenset[int]
    limit: int
    chooser: TokenChooser
    tokenizer: PreTrainedTokenizerBase
    send: SendTo
    ids: list[int] = field(default_factory=list)
    has_met_stop: bool = False
    _sent: float = 0.0

    @property
    def read(self) -> list[int]:
        """The tokens that its lane has read so far: all except the last chosen token."""
        return self.prompt_ids + self.ids[:-1]

    @property
    def is_finished(self) -> bool:
        return self._has_stopped or len(self.ids) >= self.limit

    @property
    def most_tokens(self) -> int:
        """The length of its row at the end, if it does not stop before."""
        return len(self.prompt_ids) + self.limit

    def take(self, token: int) -> None:
        """Appends a token, and sends what is new: the end, or the text at a limited rate."""
        self.ids.append(token)
        if self.request.stop:
            self.has_met_stop = before_stop(self._decoded(), self.request.stop)[1]
        now = time.perf_counter()
        if self.is_finished:
            reason = "stop" if self._has_stopped else "length"
            self.send(self.number, self._update("done", reason))
        elif self.request.stream and now - self._sent >= SECONDS_BETWEEN_TEXTS:
            self._sent = now
            self.send(self.number, self._update("text"))

    @property
    def _has_stopped(self) -> bool:
        return self.has_met_stop or (bool(self.ids) and self.ids[-1] in self.stop_ids)

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _update(self, kind: str, finish_reason: str = "") -> ChatUpdate:
        text, _ = before_stop(self._decoded(), self.request.stop)
        if kind == "text":  # a character of several tokens is U+FFFD until its last token
            text = surely_before_stop(text.rstrip("\ufffd"), self.request.stop)
        return ChatUpdate(
            "done" if kind == "done" else "text",
            text.strip(),
            len(self.prompt_ids),
            len(self.ids),
            finish_reason,
        )


class ChatLane:
    """Open rows of one model, and the answer in each; `numbers` are those of `RowAdapters`."""

    def __init__(
        self, model: Model, answers: Sequence[ChatAnswer], numbers: Sequence[int], pad_id: int
    ) -> None:
        """Reads what the answers have read, and chooses the first token of those that begin."""
        self.model, self.answers, self._numbers = model, list(answers), list(numbers)
        self._use_rows()
        lane = Lane(model, [answer.read for answer in answers], pad_id)
        logits = lane.prefill()
        self._rows: OpenRows = lane.rows
        begin = [row for row, answer in enumerate(answers) if not answer.ids]
        _take([answers[row] for row in begin], logits[begin])
        self.keep(lambda answer: not answer.is_finished)

    def advance(self) -> None:
        """Generates one token in each row."""
        self._use_rows()
        _take(self.answers, self._rows.step([answer.ids[-1] for answer in self.answers]))
        self.keep(lambda answer: not answer.is_finished)

    def keep(self, is_kept: Callable[[ChatAnswer], bool]) -> None:
        """Drops the rows of all other answers."""
        places = [place for place, answer in enumerate(self.answers) if is_kept(answer)]
        if len(places) == len(self.answers):
            return
        self.answers = [self.answers[place] for place in places]
        self._numbers = [self._numbers[place] for place in places]
        if places:
            self._rows.keep(places)
            self._rows.drop_padding(PADDING_TO_DROP)

    def join(self, other: ChatLane) -> bool:
        """Takes over the other lane's rows; `False` if it cannot."""
        if other.model is not self.model or not self._rows.can_join(other._rows):
            return False
        self._rows.join(other._rows)
        self.answers += other.answers
        self._numbers += other._numbers
        return True

    def _use_rows(self) -> None:
        if isinstance(self.model, RowAdapters) and self.model.rows != tuple(self._numbers):
            self.model.rows = self._numbers


def _take(answers: Sequence[ChatAnswer], logits: Tensor) -> None:
    likeliest = logits.argmax(dim=-1).tolist()
    for answer, best, row in zip(answers, likeliest, logits, strict=True):
        chooser, seen = answer.chooser, answer.prompt_ids + answer.ids
        answer.take(best if chooser.is_plain else chooser.choose(row, seen))


@dataclass(frozen=True)
class _Loaded:
    """The base and the sources on it, as long as the engine keeps that base."""

    sources: dict[str, PaneSource]
    attached: dict[str, Attached]
    problems: dict[str, str]
    rows: RowAdapters
    formatter: PromptFormatter


class ChatEngine:
    """Answers chats with what is offered, on the engine's device."""

    def __init__(self, engine: Engine, offer: Offer, send: SendTo) -> None:
        self._engine, self._offer, self._send = engine, offer, send
        self._loaded: _Loaded | None = None
        self._lanes: list[ChatLane] = []
        self._waiting: list[ChatAnswer] = []
        self._room: float = math.inf

    def load(self) -> None:
        """Loads the base and attaches every adapter, if that is not done. An adapter that cannot be
        attached is an error of its own chats alone. Raises what the engine raises."""
        engine, offer = self._engine, self._offer
        if self._loaded is not None and engine.holds(offer.key):
            return
        self._loaded = None
        if not engine.holds(offer.key):
            engine.load(offer.model, offer.precision)
        lineup = line_up(offer.names, offer.model, engine.runs_folder)
        problems = {offer.names[place]: problem for place, problem in lineup.problems.items()}
        sources = {source.name: source for source in lineup.sources.values()}
        attached: dict[str, Attached] = {}
        for name, source in sources.items():
            if _is_light(source):
                try:
                    attached[name] = engine.attached(source, list(attached))
                except Exception as error:
                    problems[name] = say(error, f"'{source.label}' cannot answer")
        engine.check_base()
        together = list(attached.values()) if shares_a_batch(engine.base) else []
        rows, _ = engine.row_adapters(together)
        formatter = PromptFormatter(TransformersTokenizer(engine.tokenizer))
        self._loaded = _Loaded(sources, attached, problems, rows, formatter)

    def take(self, lines: Iterable[Line]) -> None:
        """Lines up chats; those that cannot be answered are refused at once. Needs `load`."""
        assert self._loaded is not None
        for line in lines:
            problem = self._loaded.problems.get(line.content.name)
            if problem is not None:
                self._send(line.number, ChatUpdate("error", problem))
                continue
            try:
                self._waiting.append(self._begun(line.number, line.content))
            except FtlabError as error:
                self._send(line.number, ChatUpdate("refused", str(error)))
            except Exception as error:
                self._send(line.number, ChatUpdate("error", say(error, "It could not be read")))

    def run(
        self,
        arrived: Callable[[], Iterable[Line]],
        is_cancelled: Callable[[int], bool],
        check: Check,
    ) -> YieldDevice | None:
        """Answers until no chat is left. `arrived` and `is_cancelled` are asked between tokens.

        Returns early if `check` asks for the device with its memory. All models are unloaded then;
        after `load` another `run` goes on with every answer where it was.
        """
        with inference_mode():
            while True:
                wanted = check()
                if callable(wanted):
                    self.unload()
                    return wanted
                self.take(arrived())
                self._drop(is_cancelled)
                self._read_some()
                if not self._lanes and not self._waiting:
                    return None
                for lane in self._lanes:
                    try:
                        lane.advance()
                    except Exception as error:
                        self._fail([one for one in lane.answers if not one.is_finished], error)
                        lane.answers = []
                self._lanes = [lane for lane in self._lanes if lane.answers]

    def fail_all(self, sentence: str) -> None:
        """Ends every open chat with an error."""
        for answer in [*self._open, *self._waiting]:
            self._send(answer.number, ChatUpdate("error", sentence))
        self._lanes, self._waiting = [], []

    @property
    def _open(self) -> list[ChatAnswer]:
        return [answer for lane in self._lanes for answer in lane.answers]

    def _begun(self, number: int, request: ChatRequest) -> ChatAnswer:
        assert self._loaded is not None
        engine = self._engine
        attached = self._loaded.attached.get(request.name)
        soft = virtual_tokens(attached.model) if attached and attached.model else 0
        prompt = self._loaded.formatter.prompt_ids(request.messages)
        return ChatAnswer(
            number=number,
            request=request,
            prompt_ids=prompt,
            stop_ids=frozenset(self._loaded.formatter.stop_ids()),
            limit=new_tokens(engine.base, request.max_new_tokens, len(prompt), soft),
            chooser=TokenChooser(request, engine.device),
            tokenizer=engine.tokenizer,
            send=self._send,
        )

    def _drop(self, is_cancelled: Callable[[int], bool]) -> None:
        for lane in self._lanes:
            lane.keep(lambda answer: not is_cancelled(answer.number))
        self._lanes = [lane for lane in self._lanes if lane.answers]
        self._waiting = [one for one in self._waiting if not is_cancelled(one.number)]

    def _read_some(self) -> None:
        """Reads the prompts of as many waiting chats as have room, and joins them to the others."""
        chosen: list[ChatAnswer] = []
        others = self._open
        if not others:
            free = free_on(self._engine.device)
            self._room = math.inf if free is None else free - SPARE_BYTES
        longest = 0
        for answer in self._waiting[: max(0, ROWS_AT_ONCE - len(others))]:
            longest = max(longest, len(answer.read))
            is_too_long = chosen and (len(chosen) + 1) * longest > TOKENS_AT_ONCE
            if is_too_long or not self._has_room([*others, *chosen], answer):
                break
            chosen.append(answer)
        del self._waiting[: len(chosen)]
        by_model: dict[int, tuple[Model, list[ChatAnswer], list[int]]] = {}
        for answer in chosen:
            try:
                model, number = self._model_of(answer.request.name)
            except Exception as error:
                self._fail([answer], error)
                continue
            _, answers, numbers = by_model.setdefault(id(model), (model, [], []))
            answers.append(answer)
            numbers.append(number)
        for model, answers, numbers in by_model.values():
            try:
                lane = ChatLane(model, answers, numbers, self._pad_id)
                if lane.answers and not any(other.join(lane) for other in self._lanes):
                    self._lanes.append(lane)
            except Exception as error:
                self._fail([one for one in answers if not one.is_finished], error)

    def _has_room(self, others: Sequence[ChatAnswer], answer: ChatAnswer) -> bool:
        """Whether keys and values fit beside those of the others, all with their last token. An
        answer alone is always tried."""
        longest = max(one.most_tokens for one in [*others, answer])
        needed = (len(others) + 1) * longest * bytes_per_token(self._engine.base)
        return not others or COPIES * needed <= self._room

    @property
    def _pad_id(self) -> int:
        return int(self._engine.tokenizer.pad_token_id)

    def _model_of(self, name: str) -> tuple[Model, int]:
        """The model that answers for a source, and the row's number in it."""
        assert self._loaded is not None
        attached = self._loaded.attached.get(name)
        if attached is None:  # weights of its own, which may have been evicted
            in_use = [name, *(answer.request.name for answer in self._open)]
            attached = self._engine.attached(self._loaded.sources[name], in_use)
        if attached.low_rank is not None and shares_a_batch(self._engine.base):
            return self._loaded.rows, self._loaded.rows.number_of(attached.low_rank)
        return attached.model or self._engine.base, 0

    def _fail(self, answers: Sequence[ChatAnswer], error: Exception) -> None:
        sentence = say(error, "The answer failed", f"{SMALLER}, or try again when others have left")
        for answer in answers:
            self._send(answer.number, ChatUpdate("error", sentence))

    def unload(self) -> None:
        """Frees all models; the open answers are read again after `load`."""
        self._waiting[:0] = self._open
        self._lanes, self._loaded = [], None
        self._engine.unload()


def bytes_per_token(base: PreTrainedModel) -> int:
    """Of keys and values in one row; about, for a model that names its sizes otherwise."""
    config: Any = base.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * base.dtype.itemsize)


def _is_light(source: PaneSource) -> bool:
    """Whether it is attached to the base once and for all: not a model with its own weights."""
    return source.folder is None or source.is_adapter or source.is_part
