"""Chats of different adapters are rows of one batch: they join, leave and fail alone, and each gets
the text that the playground gives it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.processes import Line
from ftlab.models import decoding as decoding_module
from ftlab.playground import chat_engine as chat_engine_module
from ftlab.playground.chat import ChatRequest, ChatUpdate, Offer
from ftlab.playground.chat_engine import ChatEngine
from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest
from ftlab.tasks.spec import Message
from tests.playground.asking import texts
from tests.playground.conftest import PROMPT, AddAdapter, AddRun, NewEngine

Arrive = Callable[[int], Iterable[Line]]


def chat(name: str, prompt: str = PROMPT, tokens: int = 12, **options: Any) -> ChatRequest:
    return ChatRequest(name, (Message("user", prompt),), tokens, **options)


@dataclass
class Chats:
    """A chat engine, and what each chat was sent."""

    engine: Engine
    model: Path
    names: tuple[str, ...]
    sent: dict[int, list[ChatUpdate]] = field(default_factory=dict)
    step: int = 0
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        offer = Offer(str(self.model), "fp32", self.names)
        self.chats = ChatEngine(self.engine, offer, self._send)

    def run(
        self,
        first: Iterable[ChatRequest],
        later: dict[int, list[ChatRequest]] | None = None,
        cancel: dict[int, int] | None = None,
        give_way_at: int = -1,
    ) -> list[ChatUpdate]:
        """The last update of each chat by number, without those that were cancelled. `later` are
        chats that arrive at a step; `cancel` has the step at which a chat is cancelled."""
        numbers = iter(range(1000))
        lines = [Line(next(numbers), one) for one in first]
        later, cancel = later or {}, cancel or {}
        self.step = 0

        def check() -> Any:
            self.step += 1
            self.rows.append(len(self.chats._open))
            return (lambda: None) if self.step == give_way_at else None

        def arrived() -> Iterable[Line]:
            return [Line(next(numbers), one) for one in later.get(self.step, [])]

        def is_cancelled(number: int) -> bool:
            return number in cancel and self.step >= cancel[number]

        self.chats.load()
        self.chats.take(lines)
        while self.chats.run(arrived, is_cancelled, check) is not None:
            assert not self.engine.holds(self.chats._offer.key), "the memory was not freed"
            self.chats.load()
        ends = {number: updates[-1] for number, updates in self.sent.items()}
        return [ends[number] for number in sorted(ends) if ends[number].kind != "text"]

    def _send(self, number: int, update: ChatUpdate) -> None:
        self.sent.setdefault(number, []).append(update)


NewChats = Callable[..., Chats]


@pytest.fixture
def new_chats(engine: Engine, tiny_model: Path) -> NewChats:
    return lambda *names: Chats(engine, tiny_model, names)


def said(updates: Iterable[ChatUpdate]) -> list[str]:
    found = list(updates)
    assert [update.kind for update in found] == ["done"] * len(found), found
    return [update.text for update in found]


def test_chats_of_all_kinds_of_sources_get_the_text_that_the_playground_gives_them(
    engine: Engine, new_chats: NewChats, add_run: AddRun, add_adapter: AddAdapter,
    ask: GenerateRequest,
) -> None:  # fmt: skip
    kinds = ("lora", "dora", "prompt_tuning", "prefix_tuning")
    names = ["base", add_run("lora", 3).run_id, *(add_adapter(kind).name for kind in kinds)]
    names.append(add_run("full").run_id)
    alone = [texts(engine, ask, name)[0] for name in names]
    assert len(set(alone)) > 3
    assert said(new_chats(*names).run(map(chat, names))) == alone


def test_chats_join_between_tokens_and_every_text_stays_the_same(
    engine: Engine, new_chats: NewChats, add_run: AddRun, add_adapter: AddAdapter,
    ask: GenerateRequest,
) -> None:  # fmt: skip
    names = ["base", add_run("lora", 1).run_id, add_run("lora", 2).run_id]
    own = add_adapter("prompt_tuning").name
    prompts = ["a", "a longer prompt than the others have", PROMPT, "short"]
    asked = [*zip(names, prompts[:3], strict=True), (own, prompts[3]), (own, prompts[0])]
    alone = [texts(engine, replace(ask, prompt=prompt), name)[0] for name, prompt in asked]
    one, two, three, four, five = (chat(name, prompt) for name, prompt in asked)
    chats = new_chats(*names, own)
    assert said(chats.run([one], {3: [two], 5: [three, four], 7: [five]})) == alone
    assert max(chats.rows) == 5
    assert chats.step < 30, "they were answered one after another"


def test_a_cancelled_chat_leaves_and_the_others_stay_the_same(
    engine: Engine, new_chats: NewChats, add_run: AddRun, ask: GenerateRequest
) -> None:
    names = ["base", add_run("lora", 1).run_id, add_run("lora", 2).run_id]
    alone = [texts(engine, ask, name)[0] for name in names]
    chats = new_chats(*names)
    found = chats.run([chat(name) for name in names], cancel={1: 4})
    assert said(found) == [alone[0], alone[2]]
    assert 1 not in chats.sent


def test_padding_left_by_a_longer_chat_is_dropped(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine_module, "PADDING_TO_DROP", 2)
    alone = texts(engine, replace(ask, prompt="b", max_new_tokens=20))
    chats = new_chats("base")
    widths: list[int] = []
    keep = chat_engine_module.ChatLane.keep

    def watched(lane: Any, is_kept: Any) -> None:
        keep(lane, is_kept)
        widths.append(lane._rows.mask.shape[1])

    monkeypatch.setattr(chat_engine_module.ChatLane, "keep", watched)
    long = "a prompt that is much longer than that of the other one"
    found = chats.run([chat("base", long, 4)], {2: [chat("base", "b", 20)]})
    assert said(found)[1:] == alone
    assert max(widths) - widths[-1] > 20, "the other one's row kept the length of the longer one"


def test_after_the_device_was_given_away_every_answer_goes_on_where_it_was(
    engine: Engine, new_chats: NewChats, add_run: AddRun, ask: GenerateRequest
) -> None:
    names = ["base", add_run("lora", 1).run_id]
    drawn = [chat(name, temperature=0.9, seed=7) for name in names]
    undisturbed = said(new_chats(*names).run(drawn))
    assert undisturbed != [texts(engine, ask, name)[0] for name in names], "nothing was drawn"
    assert said(new_chats(*names).run(drawn, give_way_at=5)) == undisturbed


def test_a_seed_gives_the_same_text_in_whatever_company(new_chats: NewChats) -> None:
    one = chat("base", temperature=1.2, seed=3)
    alone = said(new_chats("base").run([one]))
    others = [chat("base", "others", temperature=1.2, seed=seed) for seed in (1, 2)]
    assert said(new_chats("base").run([*others, one]))[2:] == alone
    assert said(new_chats("base").run([replace(one, seed=4)])) != alone


def test_the_reason_and_the_tokens_are_those_of_the_answer(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest
) -> None:
    (whole,) = new_chats("base").run([chat("base", tokens=12)])
    assert (whole.finish_reason, whole.tokens) == ("length", 12)
    assert whole.prompt_tokens > len(PROMPT)
    stop = whole.text[5:7]
    before = whole.text[: whole.text.index(stop)]
    chats = new_chats("base")
    (cut,) = chats.run([chat("base", stop=(stop,), stream=True)])
    assert (cut.text, cut.finish_reason) == (before.strip(), "stop")
    assert cut.tokens < 12
    assert all(before.startswith(update.text) for update in chats.sent[0]), "a stop was streamed"


def test_a_streamed_text_grows(new_chats: NewChats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_engine_module, "SECONDS_BETWEEN_TEXTS", 0.0)
    chats = new_chats("base")
    chats.run([chat("base", stream=True), chat("base")])
    streamed = [update.text for update in chats.sent[0]]
    assert len(streamed) > 6
    assert all(late.startswith(early) for early, late in pairwise(streamed))
    assert [update.text for update in chats.sent[1]] == streamed[-1:]


def test_a_prompt_too_long_for_the_context_is_refused_and_the_others_are_answered(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest
) -> None:
    long, short = new_chats("base").run([chat("base", "word " * 100), chat("base")])
    assert long.kind == "refused"
    assert "the model's context is 128 tokens" in long.text
    assert said([short]) == texts(engine, ask)


def test_a_damaged_adapter_fails_its_own_chats_alone(
    engine: Engine, new_chats: NewChats, add_run: AddRun, ask: GenerateRequest
) -> None:
    good, damaged = add_run("lora", 1).run_id, add_run("lora", 2)
    (damaged.adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    names = [good, damaged.run_id]
    answered, failed = new_chats(*names).run(map(chat, names))
    assert said([answered]) == texts(engine, ask, good)
    assert failed.kind == "error"
    assert "damaged" in failed.text


def test_a_lane_that_fails_takes_no_other_with_it(
    engine: Engine, new_chats: NewChats, add_adapter: AddAdapter, ask: GenerateRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = add_adapter("dora").name
    advance = chat_engine_module.ChatLane.advance

    def fail(lane: Any) -> None:
        if lane.answers[0].request.name == own:
            raise MemoryError
        advance(lane)

    monkeypatch.setattr(chat_engine_module.ChatLane, "advance", fail)
    alone = texts(engine, ask)
    answered, failed = new_chats("base", own).run([chat("base"), chat(own)])
    assert said([answered]) == alone
    assert failed.kind == "error"
    assert "out of memory" in failed.text


def test_where_memory_is_out_as_a_chat_joins_the_others_go_on(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = texts(engine, ask)
    joined, parts = decoding_module._joined, 0

    def run_out(*args: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts == 3:  # the keys of the second layer
            raise MemoryError
        return joined(*args)

    monkeypatch.setattr(decoding_module, "_joined", run_out)
    first, late, later = new_chats("base").run(
        [chat("base")], {3: [chat("base", "late")], 5: [chat("base")]}
    )
    assert said([first, later]) == alone * 2
    assert late.kind == "error"
    assert "out of memory" in late.text


def test_more_chats_than_rows_wait_and_are_answered(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine_module, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(chat_engine_module, "TOKENS_AT_ONCE", 1)
    alone = texts(engine, ask)
    chats = new_chats("base")
    assert said(chats.run([chat("base")] * 5)) == alone * 5
    assert max(chats.rows) == 2


def test_chats_for_whose_keys_and_values_there_is_no_memory_wait_for_the_others(
    engine: Engine, new_chats: NewChats, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = texts(engine, ask)
    chats = new_chats("base")
    chats.run([chat("base")])
    cache = chat_engine_module.bytes_per_token(engine.base)
    assert cache == 2 * 2 * 1 * 32 * 4  # keys and values, layers, heads, width, fp32
    tokens = next(iter(chats.sent.values()))[-1].prompt_tokens + 12
    room = 3 * tokens * cache * chat_engine_module.COPIES
    free = chat_engine_module.SPARE_BYTES + room
    monkeypatch.setattr(chat_engine_module, "free_on", lambda device: free)
    chats = new_chats("base")
    assert said(chats.run([chat("base")] * 5)) == alone * 5
    assert max(chats.rows) == 3
    monkeypatch.setattr(chat_engine_module, "free_on", lambda device: 0)
    assert said(new_chats("base").run([chat("base")])) == alone, "a chat alone was not tried"


def test_a_model_with_a_sliding_window_answers_late_chats_in_lanes_of_their_own(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    from tests.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path / "window")
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, initializer_range=0.3,
        pad_token_id=0, eos_token_id=0,
    )  # fmt: skip
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 0
    MistralForCausalLM(config).save_pretrained(folder)
    engine = new_engine("fp32", folder)
    alone = [said(Chats(engine, folder, ("base",)).run([chat("base", p)]))[0] for p in "ab"]
    chats = Chats(engine, folder, ("base",))
    assert said(chats.run([chat("base", "a")], {3: [chat("base", "b")]})) == alone
    assert max(chats.rows) == 2
