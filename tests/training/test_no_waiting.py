"""No step waits for the device: what a GPU would have to be asked for is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.training import trainer as trainer_module
from ftlab.training.model import apply_method
from ftlab.training.step import collate, on_device
from tests.slow import slow
from tests.training.steps import CPU, examples_of, take_steps

_ASKS = {
    torch.ops.aten._local_scalar_dense.default,  # .item(), int(), float(), `if tensor:`
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
}
_INDEXES = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._unsafe_index.Tensor,
}


class Watch(TorchDispatchMode):
    """Notes each operation for whose result a host waits, while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ASKS or (func in _INDEXES and any(map(_is_mask, args[1]))):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def test_the_watch_sees_what_waits() -> None:
    x = torch.arange(4)
    for ask in (lambda: int(x.sum()), lambda: x[x > 1], lambda: bool((x == 1).any()), x.nonzero):
        with Watch() as watch:
            ask()
        assert watch.asked


@pytest.mark.parametrize(
    "settings", [{}, {"accumulation": 2}, {"gradient_checkpointing": True}, {"max_grad_norm": 0.0}]
)
@pytest.mark.parametrize("variant", ["full", "lora", *slow(["prompt_tuning", "ia3", "vera"])])
def test_a_step_asks_the_device_nothing(
    variant: str,
    settings: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch()

    class Watched(trainer_module.MeteringCallback):
        """The app's own callback, with the watch on within its steps."""

        def on_step_begin(self, *given: Any, **named: Any) -> None:
            super().on_step_begin(*given, **named)
            watch.__enter__()

        def on_step_end(self, *given: Any, **named: Any) -> None:
            watch.__exit__(None, None, None)
            super().on_step_end(*given, **named)

    monkeypatch.setattr(trainer_module, "MeteringCallback", Watched)
    _, _, meter = take_steps(tiny_model, tmp_path, variant, **settings)
    assert len(meter.losses) == 4
    assert watch.asked == []


def test_what_a_batch_holds_is_counted_before_it_goes_to_the_device(tiny_model: Path) -> None:
    batch = collate(examples_of(tiny_model)[:3], 0)
    assert type(batch["tokens"]) is int
    assert batch["tokens"] == int(batch["attention_mask"].sum())
    flat, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    assert torch.equal(flat[batch["kept"] + 1], batch["targets"])
    assert torch.equal(labels[batch["kept"] + 1], batch["targets"])
    assert torch.equal(batch["kept"] // batch["labels"].shape[1], batch["rows"])
    moved = on_device(batch, CPU)
    assert moved.keys() == batch.keys()
    assert moved["tokens"] == batch["tokens"]


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_the_numbers_of_soft_tokens_lie_where_their_vectors_do(
    method: str, tiny_model: Path
) -> None:
    """PEFT copies them from the CPU in every forward pass, and a copy from there is waited for."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model))
    model: Any = apply_method(base, Variant(method), "bf16", False, RunPlan(10, str(tiny_model)))
    (vectors,) = {parameter.device for parameter in model.prompt_encoder.parameters()}
    assert vectors.type == "meta"
    assert {numbers.device for numbers in model.prompt_tokens.values()} == {vectors}
