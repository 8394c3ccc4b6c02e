"""Adapters that are damaged or would change the base are refused in their pane; the base stays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftlab.basics.errors import FtlabError
from ftlab.playground.attach import marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import WEIGHTS_FILE
from ftlab.playground.requests import GenerateRequest
from tests.playground.adapters import edit_config, edit_weights
from tests.playground.asking import attached, finals, logits, texts
from tests.playground.conftest import AddAdapter


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"])
def test_an_adapter_whose_initialisation_changes_the_base_is_refused(
    start: str, engine: Engine, add_adapter: AddAdapter
) -> None:
    before, written = logits(engine.base), marks(engine.base)
    lora = add_adapter("lora")
    edit_config(lora.folder, init_lora_weights=start)
    with pytest.raises(FtlabError, match=f"starts from '{start}', which changes the base's own"):
        attached(engine, lora.name)
    assert torch.equal(logits(engine.base), before)
    assert marks(engine.base) == written


def test_an_activated_lora_is_refused(engine: Engine, add_adapter: AddAdapter) -> None:
    lora = add_adapter("lora", alora_invocation_tokens=[70, 71])
    with pytest.raises(FtlabError, match="looks for its tokens in the whole text"):
        attached(engine, lora.name)


LAYER = "base_model.model.model.layers.0"
BASE_WEIGHTS = {
    "the embeddings": ("lora", "base_model.model.model.embed_tokens.weight", (320, 64)),
    "a layer that is adapted": ("lora", f"{LAYER}.self_attn.q_proj.base_layer.weight", (64, 64)),
    "a layer that is not": ("tokens", f"{LAYER}.mlp.up_proj.weight", (128, 64)),
    "a norm": ("lora", "base_model.model.model.norm.weight", (64,)),
    "under soft tokens": ("prompt_tuning", "base_model.lm_head.weight", (320, 64)),
}


@pytest.mark.parametrize(("kind", "key", "shape"), BASE_WEIGHTS.values(), ids=BASE_WEIGHTS)
def test_a_changed_weight_of_the_base_in_the_file_is_refused(
    kind: str, key: str, shape: tuple[int, ...], engine: Engine, add_adapter: AddAdapter
) -> None:
    before, written = logits(engine.base), marks(engine.base)
    adapter = add_adapter(kind)
    edit_weights(adapter.folder, lambda weights: weights.update({key: torch.randn(shape)}))
    with pytest.raises(FtlabError, match=r"contains a changed copy of the base's weight \S+,"):
        attached(engine, adapter.name)
    assert torch.equal(logits(engine.base), before)
    assert marks(engine.base) == written


def test_a_copy_of_a_weight_of_the_base_is_accepted(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    """PEFT saves the embeddings beside a LoRA on them."""
    lora = add_adapter("lora", target_modules=["embed_tokens", "q_proj"])
    saved = load_file(lora.folder / WEIGHTS_FILE)
    assert any(key.endswith("embed_tokens.base_layer.weight") for key in saved)
    written = marks(engine.base)
    assert attached(engine, lora.name).model is not None
    assert marks(engine.base) == written


def test_a_fully_trained_layer_is_attached_and_the_base_keeps_its_own(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter("lora", modules_to_save=["lm_head"], noise=0.5)
    written, before = marks(engine.base), logits(engine.base)
    model = attached(engine, adapter.name).model
    assert model is not None
    assert not torch.equal(logits(model), before)
    assert marks(engine.base) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_with_nan_or_infinity_is_refused(
    value: float, engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter("lora")

    def diverge(weights: dict[str, torch.Tensor]) -> None:
        key = next(key for key in weights if "lora_B" in key)
        weights[key][0, 0] = value

    edit_weights(adapter.folder, diverge)
    with pytest.raises(FtlabError, match=r"lora_B.weight contains NaN or infinity"):
        attached(engine, adapter.name)


def _gone(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()


def _torn(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])


def _without_a_matrix(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop(f"{LAYER}.mlp.up_proj.lora_A.weight"))


WRONG_SHAPE = "damaged or made for another shape"
DAMAGE: dict[str, tuple[Callable[[Path], None] | dict[str, Any], str]] = {
    "gone": (_gone, "adapter_model.safetensors is missing; run it again, or choose another"),
    "torn": (_torn, WRONG_SHAPE),
    "a matrix is missing": (_without_a_matrix, "missing adapter keys"),
    "another rank": ({"r": 8}, WRONG_SHAPE),
    "layers of another model": ({"target_modules": ["c_attn"]}, WRONG_SHAPE),
    "an unknown kind": ({"peft_type": "TELEPATHY"}, WRONG_SHAPE),
    "fewer layers": ({"target_modules": ["q_proj"]}, "has no place for"),
}
"""An edit of the folder or of the configuration, and the reason in the pane."""


@pytest.mark.parametrize(("damage", "part"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_adapter_is_reported_in_its_pane_and_the_others_answer(
    damage: Callable[[Path], None] | dict[str, Any], part: str, engine: Engine,
    add_adapter: AddAdapter, ask: GenerateRequest,
) -> None:  # fmt: skip
    broken, whole = add_adapter("lora"), add_adapter("lora")
    alone = texts(engine, ask, "base", whole.name)
    if isinstance(damage, dict):
        edit_config(broken.folder, **damage)
    else:
        damage(broken.folder)
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
def test_a_pattern_with_exponential_backtracking_takes_no_time(
    kind: str, field: str, pattern: str, engine: Engine, add_adapter: AddAdapter
) -> None:
    adapter = add_adapter(kind)
    value: object = {pattern: 2} if field in ("rank_pattern", "alpha_pattern") else pattern
    edit_config(adapter.folder, **{field: [value] if field == "modules_to_save" else value})
    if field == "layers_pattern":
        edit_config(adapter.folder, layers_to_transform=[0], target_modules=["q_proj"])
    began = time.process_time()
    with suppress(FtlabError):
        attached(engine, adapter.name)
    assert time.process_time() - began < 5
