"""4-bit weights that stay unpacked for a while: the same outputs, without unpacking anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ftlab.models import packed
from ftlab.models.laid_out import is_the_same_here
from ftlab.models.loading import load_base_model
from ftlab.models.packed import packed_layers, unpacked_on_cpu
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from tests.tiny import make_tiny_model

CPU = torch.device("cpu")
PLENTY = 1 << 30

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", spread=0.2, biases=True)
    source = ResolvedModel(ModelReference("folder", str(folder)), folder)

    def load(policy: Any = "bf16", precision: Any = "nf4") -> Any:
        return load_base_model(source, policy, precision, CPU).eval()

    return load


class Unpacking(TorchDispatchMode):
    """Counts how often a 4-bit weight is unpacked."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith("bitsandbytes.gemm_4bit")
        return func(*args, **kwargs or {})


def passed(model: Any) -> tuple[Tensor, int]:
    """The logits of a pass without gradients, and the products that unpacked a weight."""
    torch.manual_seed(0)
    ids = torch.randint(1, 300, (3, 9))
    with torch.inference_mode(), Unpacking() as unpacking:
        logits: Tensor = model(input_ids=ids).logits
    return logits, unpacking.count


def with_adapter(model: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False)
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("change", [lambda model: model, with_adapter], ids=["base", "adapter"])
@pytest.mark.parametrize("policy", ["bf16", "fp32", "mixed"])
def test_the_outputs_are_the_same_bit_for_bit(
    load: Load, policy: str, change: Callable[[Any], Any]
) -> None:
    model = change(load(policy))
    expected, times = passed(model)
    with unpacked_on_cpu(model, PLENTY):
        logits, kept = passed(model)
    after, again = passed(model)
    assert torch.equal(logits, expected)
    assert torch.equal(after, expected)
    assert (times, kept, again) == (14, 0, 14)


@pytest.mark.parametrize("policy", ["bf16", "fp32", "mixed"])
def test_weights_laid_out_for_onednn_give_the_same_outputs_and_take_the_same_room(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only in bf16: fp32 would add in another order."""
    laid_out: list[torch.dtype] = []
    in_layout = packed.in_layout

    def counting(weight: Tensor) -> Tensor:
        laid_out.append(weight.dtype)
        return in_layout(weight)

    monkeypatch.setattr(packed, "in_layout", counting)
    folder = make_tiny_model(tmp_path / "wide", spread=0.1, biases=True, width=512)
    source = ResolvedModel(ModelReference("folder", str(folder)), folder)
    model = load_base_model(source, policy, "nf4", CPU).eval()
    width = {"fp32": 4}.get(policy, 2)
    needed = width * sum(one.in_features * one.out_features for one in packed_layers(model))
    expected, _ = passed(model)
    with unpacked_on_cpu(model, needed, laid_out=True) as taken:
        logits, unpackings = passed(model)
    assert (taken, unpackings) == (needed, 0)
    assert torch.equal(logits, expected)
    assert len(laid_out) == (14 if policy != "fp32" and is_the_same_here() else 0)
    with unpacked_on_cpu(model, needed - 1, laid_out=True) as taken:
        assert taken == 0


def test_weights_that_take_more_room_than_there_is_stay_packed(load: Load) -> None:
    model = load()
    needed = 2 * sum(one.in_features * one.out_features for one in packed_layers(model))
    with unpacked_on_cpu(model, needed - 1):
        assert passed(model)[1] == 14
    with unpacked_on_cpu(model, needed):
        assert passed(model)[1] == 0


def test_an_error_meanwhile_leaves_the_model_as_it_was(load: Load) -> None:
    model = load()
    with pytest.raises(KeyError), unpacked_on_cpu(model, PLENTY):
        raise KeyError
    assert passed(model)[1] == 14


@pytest.mark.parametrize("precision", [None, "int8"])
def test_other_bases_are_not_changed(load: Load, precision: str | None) -> None:
    model = load(precision=precision)
    forwards = {name: module.forward for name, module in model.named_modules()}
    with unpacked_on_cpu(model, PLENTY):
        assert {name: module.forward for name, module in model.named_modules()} == forwards
