"""Adapters on shared weights: each answers as PEFT has it, and the base stays the base."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ftlab.basics.errors import FtlabError
from ftlab.playground.attach import Attached, attach, clone_on_same_weights, marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import find_source
from ftlab.playground.requests import GenerateRequest
from ftlab.records.run import RunDirectory
from tests.playground.asking import finals, texts
from tests.playground.conftest import PROMPT, Brought
from tests.playground.kinds import chat_ids, first_logits, forwarded, generated, load_plain, spelt

AddRun = Callable[..., RunDirectory]
AddAdapter = Callable[..., Brought]

PLAIN_LORA: dict[str, dict[str, Any]] = {
    "rank 1": {"r": 1},
    "rank 16": {"r": 16, "lora_alpha": 4},
    "ranks of its own for a layer": {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"v_proj": 3}},
    "rsLoRA": {"r": 8, "use_rslora": True},
    "attention alone": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "the output layer": {"target_modules": ["lm_head", "up_proj"]},
    "a layer alone": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}
OTHER_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": ("tokens", {}),
    "LoRA with a bias": ("lora", {"target_modules": ["q_proj"], "lora_bias": True}),
    "LoRA on the embeddings": ("lora", {"target_modules": ["embed_tokens", "q_proj"]}),
    "LoRA and a whole layer": ("lora", {"modules_to_save": ["lm_head"]}),
    "LoRA and norms": ("lora", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "LoRA and tokens": ("lora", {"trainable_token_indices": [40, 70]}),
}
SOFT = ("prompt_tuning", "p_tuning", "prefix_tuning")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(10)[None]).logits
    return found


def worn(engine: Engine, name: str) -> Attached:
    return attach(engine.base, find_source(engine.runs_folder, name))


def expected(model: Path, adapter: Path | None, tokens: int) -> str:
    return spelt(model, generated(load_plain(model, adapter), chat_ids(model, PROMPT), tokens))


def test_the_base_answers_as_transformers_does(
    engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    assert texts(engine, ask) == [expected(tiny_model, None, 12)]


@pytest.mark.parametrize("config", PLAIN_LORA.values(), ids=PLAIN_LORA)
def test_a_plain_lora_is_rows_of_the_base_and_answers_as_peft_does(
    config: dict[str, Any],
    engine: Engine,
    add_adapter: AddAdapter,
    ask: GenerateRequest,
    tiny_model: Path,
) -> None:
    lora = add_adapter("lora", **config)
    base, answer = texts(engine, ask, "base", lora.name)
    assert answer == expected(tiny_model, lora.folder, 12)
    assert answer != base
    assert worn(engine, lora.name).low_rank is not None


@pytest.mark.parametrize(("kind", "config"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_every_kind_that_is_no_method_has_a_lane_and_answers_as_peft_does(
    kind: str,
    config: dict[str, Any],
    engine: Engine,
    add_adapter: AddAdapter,
    ask: GenerateRequest,
    tiny_model: Path,
) -> None:
    before = logits(engine.base)
    other = add_adapter(kind, **config)
    base, answer = texts(engine, ask, "base", other.name)
    assert answer == expected(tiny_model, other.folder, 12)
    assert answer != base
    assert worn(engine, other.name).low_rank is None
    assert torch.equal(logits(engine.base), before)


@pytest.mark.parametrize("kind", SOFT)
def test_soft_tokens_answer_as_a_whole_forward_of_peft_does(
    kind: str,
    engine: Engine,
    add_adapter: AddAdapter,
    ask: GenerateRequest,
    tiny_model: Path,
) -> None:
    """Not as PEFT's `generate`: with transformers 5.24 that passes a prefix over, and puts what
    follows soft tokens at positions that training never used."""
    soft = add_adapter(kind, noise=1.0)
    base, answer = texts(engine, ask, "base", soft.name)
    ids = chat_ids(tiny_model, PROMPT)
    assert answer == spelt(tiny_model, forwarded(load_plain(tiny_model, soft.folder), ids, 12))
    assert answer != base


def test_full_fine_tuning_answers_as_its_own_weights_do(
    engine: Engine, add_run: AddRun, ask: GenerateRequest, tiny_model: Path
) -> None:
    run = add_run("full", noise=0.3)
    base, answer = texts(engine, ask, "base", run.run_id)
    assert answer == expected(tiny_model, run.adapter, 12)
    assert answer != base


def test_a_clone_is_another_tree_on_the_same_weights(engine: Engine) -> None:
    clone: Any = clone_on_same_weights(engine.base)
    base: Any = engine.base
    assert clone is not base
    assert clone.model.layers[0] is not base.model.layers[0]
    assert marks(clone) == marks(base)
    assert [b.data_ptr() for b in clone.buffers()] == [b.data_ptr() for b in base.buffers()]


@pytest.mark.parametrize("kind", ["dora", "ia3", "loha", *SOFT])
def test_an_adapter_adds_only_its_own_weights(
    kind: str, engine: Engine, add_adapter: AddAdapter
) -> None:
    model: Any = worn(engine, add_adapter(kind).name).model
    base = {parameter.data_ptr() for parameter in engine.base.parameters()}
    own = {name for name, parameter in model.named_parameters() if parameter.data_ptr() not in base}
    assert own
    assert all(
        any(part in name for part in ("lora_", "ia3_", "hada_", "prompt_encoder")) for name in own
    )


def test_a_plain_lora_keeps_its_small_matrices_alone(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    found = worn(engine, add_adapter("lora", r=2).name)
    assert found.model is None
    assert found.low_rank is not None
    sizes = {(tuple(pair.a.shape), tuple(pair.b.shape)) for pair in found.low_rank.layers.values()}
    assert sizes == {
        ((2, 64), (64, 2)), ((2, 64), (32, 2)), ((2, 64), (128, 2)), ((2, 128), (64, 2)),
    }  # fmt: skip


def test_every_kind_leaves_the_base_as_it_was(engine: Engine, add_adapter: AddAdapter) -> None:
    before, written = logits(engine.base), marks(engine.base)
    held = {name: parameter.clone() for name, parameter in engine.base.named_parameters()}
    for kind in ("lora", "dora", "adalora", "ia3", "loha", "lokr", "oft", "tokens", *SOFT):
        worn(engine, add_adapter(kind).name)
    for _, config in OTHER_KINDS.values():
        worn(engine, add_adapter("lora", **{k: v for k, v in config.items() if k != "r"}).name)
    assert torch.equal(logits(engine.base), before)
    assert marks(engine.base) == written
    assert all(torch.equal(held[name], now) for name, now in engine.base.named_parameters())
    assert not any("lora" in name for name, _ in engine.base.named_modules())


def test_the_proof_is_the_hash_of_the_weights_file(
    engine: Engine, add_adapter: AddAdapter, add_run: AddRun, ask: GenerateRequest
) -> None:
    lora, full = add_adapter("lora"), add_run("full")
    base, first, second = finals(engine, ask, "base", lora.name, full.run_id)
    weights = lora.folder / "adapter_model.safetensors"
    assert base.adapter_sha256 == ""
    assert first.adapter_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    weights = full.adapter / "model.safetensors"
    assert second.adapter_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.fixture
def quantised(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine("nf4")


@pytest.mark.parametrize("kind", ["lora", "dora", "prompt_tuning"])
def test_on_a_4_bit_base_the_first_logits_are_pefts(
    kind: str, quantised: Engine, add_adapter: AddAdapter, ask: GenerateRequest, tiny_model: Path
) -> None:
    from ftlab.playground.attach import RowAdapters
    from ftlab.playground.decoding import Lane

    adapter = add_adapter(kind)
    plain = PeftModel.from_pretrained(clone_on_same_weights(quantised.base), str(adapter.folder))
    ids = chat_ids(tiny_model, PROMPT)
    wanted = first_logits(plain.eval(), ids)
    found = worn(quantised, adapter.name)
    with torch.inference_mode():
        if found.low_rank:
            rows = RowAdapters(quantised.base, [found.low_rank])
            rows.rows = [0, 1, 0]
            logits_ = Lane(rows, [ids, ids, ids], 0).prefill()[1]
        else:
            assert found.model is not None
            logits_ = Lane(found.model, [ids], 0).prefill()[0]
    assert float((logits_ - wanted).norm() / wanted.norm()) < 1e-2


def test_a_clone_of_a_4_bit_base_shares_scales_too_and_is_never_repacked(quantised: Engine) -> None:
    base: Any = quantised.base
    logits(base)
    clone: Any = clone_on_same_weights(base)
    before = base.model.layers[0].self_attn.q_proj
    after = clone.model.layers[0].self_attn.q_proj
    assert after.weight is before.weight
    assert after.quant_state is before.quant_state
    wanted, packed = logits(base), before.weight.detach().clone()
    assert torch.equal(logits(clone), wanted)
    assert torch.equal(before.weight, packed)
    assert after.support_avx512bf16_for_cpu is False


def test_a_kind_that_cannot_be_put_on_4_bits_is_said_with_that_reason(
    quantised: Engine, add_adapter: AddAdapter
) -> None:
    with pytest.raises(FtlabError, match="or its kind cannot be put on a base in 4 bits"):
        worn(quantised, add_adapter("loha").name)


def test_a_clone_of_an_8_bit_base_shares_its_weights(tiny_model: Path, one_thread: None) -> None:
    from ftlab.models.loading import load_base_model
    from ftlab.models.reference import ModelReference
    from ftlab.models.resolve import ResolvedModel

    source = ResolvedModel(ModelReference("folder", str(tiny_model)), tiny_model)
    base: Any = load_base_model(source, "bf16", "int8", torch.device("cpu")).eval()
    logits(base)
    clone: Any = clone_on_same_weights(base)
    before = base.model.layers[0].mlp.up_proj
    after = clone.model.layers[0].mlp.up_proj
    assert after.weight is before.weight
    assert after.state.CB is before.state.CB
    assert torch.equal(logits(clone), logits(base))


def test_an_adapter_that_is_let_go_gives_its_memory_back_at_once(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    import weakref

    model: Any = worn(engine, add_adapter("dora").name).model
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
