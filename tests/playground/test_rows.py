"""Rows of one batch: each has its own adapter, independent of the other rows."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ftlab.playground import rows as rows_module
from ftlab.playground.attach import LowRank, Pair, marks
from ftlab.playground.decoding import Lane
from ftlab.playground.engine import Engine
from ftlab.playground.panes import find_source
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.rows import RowAdapters, RowLinear
from ftlab.tasks.spec import Message
from tests.playground.asking import finals, texts
from tests.playground.conftest import AddAdapter, NewEngine, Uploaded
from tests.playground.kinds import chat_ids, first_logits, generated, load_plain, spelt

IDS = [1, 40, 50, 60, 70]
LONGER = [1, 90, 80, 70, 60, 50, 40, 30]


def low_rank(engine: Engine, adapter: Uploaded) -> LowRank:
    found = engine.attached(find_source(engine.runs_folder, adapter.name)).low_rank
    assert found is not None
    return found


def rows_logits(rows: RowAdapters, numbers: Sequence[int], prompts: Sequence[list[int]]) -> Tensor:
    rows.rows = numbers
    with torch.inference_mode():
        return Lane(rows, prompts, 0).prefill()


@pytest.fixture
def three(engine: Engine, add_adapter: AddAdapter) -> list[Uploaded]:
    """Of different ranks and on different layers."""
    return [
        add_adapter("lora", seed=1, r=2),
        add_adapter("lora", seed=2, r=5, target_modules=["q_proj", "v_proj"]),
        add_adapter("lora", seed=3, r=3, target_modules=["up_proj", "v_proj", "lm_head"]),
    ]


@pytest.fixture
def rows(engine: Engine, three: list[Uploaded]) -> RowAdapters:
    return RowAdapters(engine.base, [low_rank(engine, adapter) for adapter in three])


def test_each_row_equals_peft_and_the_base_row_the_base(
    rows: RowAdapters, three: list[Uploaded], tiny_model: Path
) -> None:
    found = rows_logits(rows, [2, 0, 3, 1], [IDS] * 4)
    order = [three[1].folder, None, three[2].folder, three[0].folder]
    for row, adapter in zip(found, order, strict=True):
        wanted = first_logits(load_plain(tiny_model, adapter), IDS)
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)


def test_a_mask_shifted_by_one_row_would_be_noticed(rows: RowAdapters) -> None:
    """No two rows of this batch are alike, so what is shifted is another row's."""
    found = rows_logits(rows, [0, 1, 2, 3], [IDS] * 4)
    shifted = rows_logits(rows, [3, 0, 1, 2], [IDS] * 4)
    torch.testing.assert_close(found, shifted.roll(-1, dims=0), rtol=1e-4, atol=1e-4)
    for row in range(4):
        others = found[[other for other in range(4) if other != row]]
        assert float((others - found[row]).abs().amax(dim=1).min()) > 0.1


@pytest.mark.parametrize("numbers", [[0, 0], [0, 2]])
def test_a_base_row_is_bit_identical_beside_others(
    numbers: list[int], rows: RowAdapters, engine: Engine
) -> None:
    with torch.inference_mode():
        alone = Lane(engine.base, [IDS, LONGER], 0).prefill()
    beside = rows_logits(rows, numbers, [IDS, LONGER])
    for row, number in enumerate(numbers):
        assert torch.equal(beside[row], alone[row]) == (number == 0)


def test_rows_can_be_dropped_between_tokens(
    rows: RowAdapters, three: list[Uploaded], tiny_model: Path
) -> None:
    rows.rows = [0, 3, 2, 1]
    lane = Lane(rows, [LONGER, IDS, LONGER, IDS], 0)
    with torch.inference_mode():
        lane.prefill()
        lane.keep([1, 3])
        assert rows.rows == (3, 1)
        found = lane.step([33, 44])
        lane.keep([1])
        last = lane.step([55])
    for row, adapter, ids in [
        (found[0], three[2], [*IDS, 33]),
        (found[1], three[0], [*IDS, 44]),
        (last[0], three[0], [*IDS, 44, 55]),
    ]:
        wanted = first_logits(load_plain(tiny_model, adapter.folder), ids)
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)


def test_all_base_tensors_are_shared(rows: RowAdapters, engine: Engine) -> None:
    assert rows.model is not engine.base
    assert marks(rows.model) == marks(engine.base)
    assert not any(module._forward_hooks for module in engine.base.modules())


def test_the_memory_of_unused_rows_is_freed_at_once(engine: Engine, three: list[Uploaded]) -> None:
    rows = RowAdapters(engine.base, [low_rank(engine, three[0])])
    layer: Any = rows.model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, RowLinear)
    matrix = weakref.ref(layer.added.up)
    gc.disable()
    try:
        del rows, layer
        assert matrix() is None
    finally:
        gc.enable()


def test_an_overflow_in_one_adapter_stays_in_its_row(engine: Engine) -> None:
    path = "model.layers.0.mlp.up_proj"
    alternating = torch.tensor([3e38, -3e38]).repeat(2, 32)
    huge = LowRank({path: Pair(alternating, torch.full((128, 2), 100.0), 1.0)})
    small = LowRank({path: Pair(torch.ones(2, 64), torch.ones(128, 2), 0.01)})
    rows = RowAdapters(engine.base, [huge, small])
    found = rows_logits(rows, [0, 1, 2], [IDS] * 3)
    assert not found[1].isfinite().all()
    assert found[[0, 2]].isfinite().all()


def test_layers_with_the_same_input_share_a_product_and_are_right_where_it_is_another(
    engine: Engine, three: list[Uploaded]
) -> None:
    """As where q, k and v read different things; nothing is kept of an input at the end."""
    rows = RowAdapters(engine.base, [low_rank(engine, adapter) for adapter in three])
    rows.rows = [1, 2]
    attention: Any = rows.model.get_submodule("model.layers.0.self_attn")
    own: Any = engine.base.get_submodule("model.layers.0.self_attn")
    same, other = torch.randn(2, 2, 5, 64)
    with torch.inference_mode():
        apart = {name: getattr(attention, name)(other.clone()) for name in ("q_proj", "v_proj")}
        for name, x in (("q_proj", same), ("k_proj", same), ("v_proj", other)):
            found = getattr(attention, name)(x)
            base = getattr(own, name)(x)
            for row, adapter in enumerate((low_rank(engine, three[0]), low_rank(engine, three[1]))):
                pair = adapter.layers.get(f"model.layers.0.self_attn.{name}")
                added = pair.scaling * x[row] @ pair.a.T @ pair.b.T if pair else 0
                torch.testing.assert_close(found[row], base[row] + added, rtol=1e-4, atol=1e-4)
        assert torch.equal(attention.v_proj(other), apart["v_proj"])
    shared = attention.q_proj.added.shared
    assert shared is attention.k_proj.added.shared is attention.v_proj.added.shared
    assert shared is not attention.o_proj.added.shared


def test_layers_of_one_parent_with_inputs_of_different_width_share_nothing() -> None:
    """As in cross-attention, whose keys and values are made of another model's output."""
    parent = nn.ModuleDict({"q_proj": nn.Linear(4, 3), "k_proj": nn.Linear(6, 3)})
    pairs = {
        name: Pair(torch.ones(2, w), torch.ones(3, 2), 0.5) for name, w in (("q", 4), ("k", 6))
    }
    layers = {f"{name}_proj": [pair] for name, pair in pairs.items()}
    inputs = {"q_proj": torch.ones(2, 1, 4), "k_proj": torch.ones(2, 5, 6)}
    expected = {name: parent[name](x) for name, x in inputs.items()}
    batch = rows_module._Batch(torch.device("cpu"))
    batch.set([0, 1])
    with torch.no_grad():
        rows_module.together(parent, layers, batch)
        for name, x in inputs.items():
            added = parent[name](x) - expected[name]
            torch.testing.assert_close(added[0], torch.zeros_like(added[0]))
            torch.testing.assert_close(added[1], torch.full_like(added[1], float(x.shape[-1])))


@pytest.mark.parametrize("order", ["qkv", "kvq"])
def test_of_a_long_prompt_nothing_is_kept_when_all_its_layers_have_read_it(
    order: str, engine: Engine, three: list[Uploaded]
) -> None:
    """Some architectures compute them in another order than they name them in."""
    rows = RowAdapters(engine.base, [low_rank(engine, adapter) for adapter in three])
    rows.rows = [1, 2]
    attention: Any = rows.model.get_submodule("model.layers.0.self_attn")
    prompt = torch.randn(2, 9, 64)
    with torch.inference_mode():
        for name in order:
            getattr(attention, f"{name}_proj")(prompt)
    read = weakref.ref(prompt)
    del prompt
    assert read() is None
    assert attention.q_proj.added.shared.product.kept is None


def test_a_layer_of_another_kind_or_one_that_was_changed_gets_a_hook(
    engine: Engine, three: list[Uploaded]
) -> None:
    path = "model.layers.0.self_attn.q_proj"
    plain = RowAdapters(engine.base, [low_rank(engine, three[0])])
    expected = rows_logits(plain, [0, 1], [IDS] * 2)
    layer: Any = engine.base.get_submodule(path)
    handle = layer.register_forward_hook(lambda module, given, output: output)
    try:
        hooked = RowAdapters(engine.base, [low_rank(engine, three[0])])
        assert isinstance(hooked.model.get_submodule(path), nn.Linear)
        assert torch.equal(rows_logits(hooked, [0, 1], [IDS] * 2), expected)
    finally:
        handle.remove()


def test_a_batch_of_another_size_is_refused(engine: Engine, three: list[Uploaded]) -> None:
    rows = RowAdapters(engine.base, [low_rank(engine, three[0])])
    rows.rows = [0, 1]
    with pytest.raises(RuntimeError, match="3 rows in a batch with 2 adapter numbers"):
        rows.model(input_ids=torch.tensor([IDS] * 3))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 1, 0), (0, 0, 0)])
def test_a_pane_answers_as_alone_beside_others_in_any_order(
    order: tuple[int, ...], engine: Engine, three: list[Uploaded], ask: GenerateRequest,
    tiny_model: Path,
) -> None:  # fmt: skip
    ids = chat_ids(tiny_model, ask.prompt)
    panes = [three[place] for place in order]
    found = texts(engine, ask, panes[0].name, "base", *[pane.name for pane in panes[1:]])
    wanted = [
        spelt(tiny_model, generated(load_plain(tiny_model, adapter), ids, 12))
        for adapter in (panes[0].folder, None, panes[1].folder, panes[2].folder)
    ]
    assert found == wanted


def test_chats_of_different_length_answer_as_alone(
    engine: Engine, three: list[Uploaded], ask: GenerateRequest, tiny_model: Path
) -> None:
    chats = [
        [],
        [Message("user", "who?"), Message("assistant", "a king of France, I say")],
        [Message("user", "x"), Message("assistant", "y")],
        [Message("user", "when"), Message("assistant", "then")],
    ]
    adapters = [three[0].folder, None, three[1].folder, three[0].folder]
    panes = (three[0].name, "base", three[1].name, three[0].name)
    request = replace(ask, panes=panes, histories=tuple(map(tuple, chats)))
    wanted = [
        spelt(
            tiny_model,
            generated(
                load_plain(tiny_model, adapter),
                chat_ids(tiny_model, *[turn.content for turn in chat], ask.prompt),
                12,
            ),
        )
        for adapter, chat in zip(adapters, chats, strict=True)
    ]
    assert texts(engine, request) == wanted


def test_a_sampled_text_does_not_depend_on_the_panes_beside_it(
    engine: Engine, three: list[Uploaded], add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    sampled = replace(ask, temperature=1.3, top_p=0.9, seed=7)
    names = [adapter.name for adapter in three]
    (alone,) = texts(engine, sampled, names[1])
    soft = add_adapter("prompt_tuning").name
    beside = texts(engine, sampled, names[0], names[1], soft, "base", names[2], names[1])
    assert beside[1] == beside[5] == alone
    (other,) = texts(engine, replace(sampled, seed=8), names[1])
    assert other != alone


def test_the_rows_are_made_again_only_for_other_adapters(
    engine: Engine, three: list[Uploaded], ask: GenerateRequest
) -> None:
    finals(engine, ask, "base", three[0].name)
    rows = engine._rows
    finals(engine, ask, three[0].name, three[0].name, "base")
    assert engine._rows is rows
    finals(engine, ask, three[0].name, three[1].name)
    assert engine._rows is not rows


@pytest.fixture(scope="session")
def other_models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Other architectures: fused layers, biases, a window, rows concatenated to one, experts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models import (
        gpt2,
        mistral,
        opt,
        qwen2,
        qwen2_moe,
    )  # fmt: skip

    torch.set_num_threads(1)
    ends = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 1}
    sizes = {
        "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }  # fmt: skip
    llama = ends | sizes | {
        "intermediate_size": 128, "num_key_value_heads": 2, "initializer_range": 0.3,
    }  # fmt: skip
    configs = {
        "gpt2": gpt2.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=320, initializer_range=0.3,
            **ends,
        ),
        "qwen2": qwen2.Qwen2Config(**llama),
        "mistral": mistral.MistralConfig(sliding_window=8, **llama),
        "opt": opt.OPTConfig(ffn_dim=128, word_embed_proj_dim=64, init_std=0.3, **ends, **sizes),
        "qwen2_moe": qwen2_moe.Qwen2MoeConfig(
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
            shared_expert_intermediate_size=32, decoder_sparse_step=1, **llama,
        ),
    }  # fmt: skip
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    folders = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp("others") / name
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(
    ("name", "shares"),
    [("gpt2", True), ("qwen2", True), ("mistral", True), ("opt", True), ("qwen2_moe", False)],
)
def test_models_of_other_architectures_answer_as_alone(
    name: str, shares: bool, new_engine: NewEngine, other_models: dict[str, Path],
    add_adapter: AddAdapter, ask: GenerateRequest,
) -> None:  # fmt: skip
    """The layers of a mixture of experts get the tokens of all rows mixed: a lane for each pane."""
    model = other_models[name]
    first = add_adapter("lora", seed=1, base=model, noise=0.05)
    second = add_adapter("lora", seed=2, r=3, base=model, noise=0.05)
    engine = new_engine("fp32", model)
    request = replace(ask, model=str(model))
    found = finals(engine, request, first.name, "base", second.name)
    ids = chat_ids(model, ask.prompt)
    assert [update.text for update in found] == [
        spelt(model, generated(load_plain(model, adapter), ids, 12))
        for adapter in (first.folder, None, second.folder)
    ]
    assert [bool(one.low_rank) for one, _ in engine.adapters._held.values()] == [shares, shares]
    assert found[1].next_token is None, "the base is not compared with itself"
    assert found[0].next_token is not None
