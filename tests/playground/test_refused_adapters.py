"""Adapters that are broken, or would change the base: refused in their pane, the base intact."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.basics.errors import FtlabError
from ftlab.playground.attach import Attached, attach, marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import find_source
from ftlab.playground.requests import GenerateRequest
from tests.playground.asking import finals, texts
from tests.playground.conftest import Brought

AddAdapter = Callable[..., Brought]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(10)[None]).logits
    return found


def worn(engine: Engine, name: str) -> Attached:
    return attach(engine.base, find_source(engine.runs_folder, name))


def edit_config(adapter: Brought, **changes: Any) -> None:
    file = adapter.folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | changes), encoding="utf-8")


def edit_weights(adapter: Brought, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = adapter.folder / "adapter_model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"])
def test_an_adapter_that_starts_by_changing_the_base_is_refused(
    start: str, engine: Engine, add_adapter: AddAdapter
) -> None:
    before, written = logits(engine.base), marks(engine.base)
    lora = add_adapter("lora")
    edit_config(lora, init_lora_weights=start)
    with pytest.raises(FtlabError, match=f"starts from '{start}', which changes the base's own"):
        worn(engine, lora.name)
    assert torch.equal(logits(engine.base), before)
    assert marks(engine.base) == written


def test_a_start_that_sets_the_adapter_alone_is_not_refused(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    lora = add_adapter("lora")
    edit_config(lora, init_lora_weights="gaussian")
    assert worn(engine, lora.name).low_rank is not None


def test_an_activated_lora_is_refused(engine: Engine, add_adapter: AddAdapter) -> None:
    lora = add_adapter("lora", alora_invocation_tokens=[70, 71])
    with pytest.raises(FtlabError, match="looks for its tokens in the whole text"):
        worn(engine, lora.name)


LAYER = "base_model.model.model.layers.0"
BASE_WEIGHTS = {
    "the embeddings": ("lora", "base_model.model.model.embed_tokens.weight", (320, 64)),
    "a layer that is adapted": ("lora", f"{LAYER}.self_attn.q_proj.base_layer.weight", (64, 64)),
    "a layer that is not": ("tokens", f"{LAYER}.mlp.up_proj.weight", (128, 64)),
    "a norm": ("lora", "base_model.model.model.norm.weight", (64,)),
    "under soft tokens": ("prompt_tuning", "base_model.lm_head.weight", (320, 64)),
}


@pytest.mark.parametrize(("kind", "key", "shape"), BASE_WEIGHTS.values(), ids=BASE_WEIGHTS)
def test_a_weight_of_the_base_in_the_file_never_gets_into_the_base(
    kind: str, key: str, shape: tuple[int, ...], engine: Engine, add_adapter: AddAdapter
) -> None:
    before, written = logits(engine.base), marks(engine.base)
    adapter = add_adapter(kind)
    edit_weights(adapter, lambda weights: weights.update({key: torch.randn(shape)}))
    with pytest.raises(FtlabError, match=r"brings the base's weight \S+ along, changed"):
        worn(engine, adapter.name)
    assert torch.equal(logits(engine.base), before)
    assert marks(engine.base) == written


def test_a_copy_of_the_bases_own_weight_does_no_harm(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    """PEFT saves the embeddings beside a LoRA on them."""
    lora = add_adapter("lora", target_modules=["embed_tokens", "q_proj"])
    saved = load_file(lora.folder / "adapter_model.safetensors")
    assert any(key.endswith("embed_tokens.base_layer.weight") for key in saved)
    written = marks(engine.base)
    assert worn(engine, lora.name).model is not None
    assert marks(engine.base) == written


def test_a_layer_that_is_trained_whole_is_worn_and_the_base_keeps_its_own(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter("lora", modules_to_save=["lm_head"], noise=0.5)
    written, before = marks(engine.base), logits(engine.base)
    model = worn(engine, adapter.name).model
    assert model is not None
    assert not torch.equal(logits(model), before)
    assert marks(engine.base) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_whose_weights_are_no_numbers_is_refused(
    value: float, engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter("lora")

    def diverge(weights: dict[str, torch.Tensor]) -> None:
        key = next(key for key in weights if "lora_B" in key)
        weights[key][0, 0] = value

    edit_weights(adapter, diverge)
    with pytest.raises(FtlabError, match=r"lora_B.weight holds values that are no numbers"):
        worn(engine, adapter.name)


def _missing(adapter: Brought) -> str:
    (adapter.folder / "adapter_model.safetensors").unlink()
    return "adapter_model.safetensors is missing; run it again, or choose another"


def _torn(adapter: Brought) -> str:
    file = adapter.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
    return "damaged or made for another shape"


def _no_header(adapter: Brought) -> str:
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"{")
    return "damaged or made for another shape"


def _other_rank(adapter: Brought) -> str:
    edit_config(adapter, r=8)
    return "damaged or made for another shape"


def _other_layers(adapter: Brought) -> str:
    edit_config(adapter, target_modules=["c_attn"])
    return "damaged or made for another shape"


def _unknown_kind(adapter: Brought) -> str:
    edit_config(adapter, peft_type="TELEPATHY")
    return "damaged or made for another shape"


def _fewer_layers(adapter: Brought) -> str:
    edit_config(adapter, target_modules=["q_proj"])
    return "has no place for"


def _more_layers(adapter: Brought) -> str:
    edit_weights(adapter, lambda weights: weights.pop(f"{LAYER}.mlp.up_proj.lora_A.weight"))
    return "missing adapter keys"


@pytest.mark.parametrize(
    "damage",
    [
        _missing, _torn, _no_header, _other_rank, _other_layers, _unknown_kind, _fewer_layers,
        _more_layers,
    ],
)  # fmt: skip
def test_a_broken_adapter_is_said_in_its_pane_and_the_others_go_on(
    damage: Callable[[Brought], str],
    engine: Engine,
    add_adapter: AddAdapter,
    ask: GenerateRequest,
) -> None:
    broken, whole = add_adapter("lora"), add_adapter("lora")
    alone = texts(engine, ask, "base", whole.name)
    part = damage(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = finals(engine, ask, "base", broken.name, whole.name)
    assert [update.kind for update in found] == ["done", "error", "done"]
    assert part in found[1].text
    assert "\n" not in found[1].text
    assert [found[0].text, found[2].text] == alone


@pytest.mark.hostile("patterns of layers")
@pytest.mark.parametrize("pattern", [".?" * 45 + "Z", "((.+)+)+Z", "(.|.)" * 30 + "Z"])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("lora", "target_modules"), ("lora", "exclude_modules"), ("lora", "rank_pattern"),
        ("lora", "alpha_pattern"), ("lora", "modules_to_save"), ("ia3", "feedforward_modules"),
        ("lora", "layers_pattern"), ("lora", "target_parameters"),
    ],
)  # fmt: skip
def test_a_pattern_that_re_would_run_for_years_is_through_in_a_moment(
    kind: str, field: str, pattern: str, engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter(kind)
    value: object = {pattern: 2} if field in ("rank_pattern", "alpha_pattern") else pattern
    edit_config(adapter, **{field: [value] if field == "modules_to_save" else value})
    if field == "layers_pattern":
        edit_config(adapter, layers_to_transform=[0], target_modules=["q_proj"])
    began = time.process_time()
    with suppress(FtlabError):
        worn(engine, adapter.name)
    assert time.process_time() - began < 5
