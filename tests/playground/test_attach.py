"""Adapters on shared weights: each gives the same answer as with PEFT; the base stays unchanged."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ftlab.basics.errors import FtlabError
from ftlab.playground.attach import clone_on_same_weights, marks
from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest
from tests.playground.asking import attached, logits, texts
from tests.playground.conftest import PROMPT, AddAdapter, AddRun, NewEngine
from tests.playground.kinds import chat_ids, first_logits, generated, load_plain, spelt

SOFT = ("prompt_tuning", "p_tuning", "prefix_tuning")


def expected(model: Path, adapter: Path | None, tokens: int) -> str:
    return spelt(model, generated(load_plain(model, adapter), chat_ids(model, PROMPT), tokens))


def test_the_base_answers_as_transformers_does(
    engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    assert texts(engine, ask) == [expected(tiny_model, None, 12)]


def test_full_fine_tuning_answers_as_its_own_weights_do(
    engine: Engine, add_run: AddRun, ask: GenerateRequest, tiny_model: Path
) -> None:
    run = add_run("full", noise=0.3)
    base, answer = texts(engine, ask, "base", run.run_id)
    assert answer == expected(tiny_model, run.adapter, 12)
    assert answer != base


def test_a_clone_is_another_module_tree_with_the_same_weights(engine: Engine) -> None:
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
    model: Any = attached(engine, add_adapter(kind).name).model
    base = {parameter.data_ptr() for parameter in engine.base.parameters()}
    own = {name for name, parameter in model.named_parameters() if parameter.data_ptr() not in base}
    assert own
    assert all(
        any(part in name for part in ("lora_", "ia3_", "hada_", "prompt_encoder")) for name in own
    )


def test_glora_answers_although_peft_takes_none_but_torchs_own_layers_for_it(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest, tiny_model: Path
) -> None:
    glora = add_adapter("glora")
    assert texts(engine, ask, glora.name) == [expected(tiny_model, glora.folder, 12)]


def test_a_plain_lora_keeps_only_its_small_matrices(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    found = attached(engine, add_adapter("lora", r=2).name)
    assert found.model is None
    assert found.low_rank is not None
    sizes = {(tuple(pair.a.shape), tuple(pair.b.shape)) for pair in found.low_rank.layers.values()}
    assert sizes == {
        ((2, 64), (64, 2)), ((2, 64), (32, 2)), ((2, 64), (128, 2)), ((2, 128), (64, 2)),
    }  # fmt: skip


@pytest.fixture
def quantised(new_engine: NewEngine) -> Engine:
    return new_engine("nf4")


@pytest.mark.parametrize("kind", ["lora", "dora", "prompt_tuning"])
def test_on_a_4_bit_base_the_first_logits_are_pefts(
    kind: str, quantised: Engine, add_adapter: AddAdapter, ask: GenerateRequest, tiny_model: Path
) -> None:
    from ftlab.playground.decoding import Lane
    from ftlab.playground.rows import RowAdapters

    adapter = add_adapter(kind)
    plain = PeftModel.from_pretrained(clone_on_same_weights(quantised.base), str(adapter.folder))
    ids = chat_ids(tiny_model, PROMPT)
    wanted = first_logits(plain.eval(), ids)
    found = attached(quantised, adapter.name)
    with torch.inference_mode():
        if found.low_rank:
            rows = RowAdapters(quantised.base, [found.low_rank])
            rows.rows = [0, 1, 0]
            logits_ = Lane(rows, [ids, ids, ids], 0).prefill()[1]
        else:
            assert found.model is not None
            logits_ = Lane(found.model, [ids], 0).prefill()[0]
    assert float((logits_ - wanted).norm() / wanted.norm()) < 1e-2


def test_a_clone_of_a_4_bit_base_shares_scales_too_and_is_not_repacked(quantised: Engine) -> None:
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


def test_a_kind_that_does_not_work_on_4_bits_is_refused_with_that_reason(
    quantised: Engine, add_adapter: AddAdapter
) -> None:
    with pytest.raises(FtlabError, match="or its kind cannot be put on a base in 4 bits"):
        attached(quantised, add_adapter("loha").name)


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


def test_the_memory_of_an_unused_adapter_is_freed_at_once(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    import weakref

    model: Any = attached(engine, add_adapter("dora").name).model
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
