"""RMSNorm on a CPU in bf16: the numbers of the model's own, and less is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ftlab.models.cpu_norms import use_cpu_norms
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model

WIDTH = 48
LIKE_LLAMAS = (LlamaRMSNorm, MistralRMSNorm, Qwen3RMSNorm)


def is_ours(module: nn.Module) -> bool:
    return "forward" in module.__dict__


def norms(dtype: torch.dtype, learns: bool, kind: type = LlamaRMSNorm) -> tuple[nn.Module, ...]:
    """The model's own norm and ours, on the same weight."""
    torch.manual_seed(0)
    theirs = kind(WIDTH)
    nn.init.normal_(theirs.weight)
    theirs.to(dtype).requires_grad_(learns)
    ours = copy.deepcopy(theirs)
    use_cpu_norms(ours)
    return theirs, ours


def given(dtype: torch.dtype) -> Tensor:
    torch.manual_seed(1)
    return (3 * torch.randn(5, 7, WIDTH)).to(dtype).requires_grad_()


def passed(norm: nn.Module, hidden: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of the weight if it learns."""
    output = norm(hidden)
    torch.manual_seed(2)
    wanted = [hidden, *(p for p in norm.parameters() if p.requires_grad)]
    return [output, *torch.autograd.grad(output, wanted, torch.randn_like(output))]


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("kind", LIKE_LLAMAS)
def test_output_and_gradients_are_those_of_the_models_own_norm(kind: type, learns: bool) -> None:
    theirs, ours = norms(torch.bfloat16, learns, kind)
    assert is_ours(ours)
    hidden = given(torch.bfloat16)
    (output, *gradients), (expected, *others) = passed(ours, hidden), passed(theirs, hidden)
    assert torch.equal(output, expected)
    assert len(gradients) == 1 + learns
    for gradient, other in zip(gradients, others, strict=True):
        assert gradient.dtype == other.dtype
        torch.testing.assert_close(gradient, other, rtol=2**-7, atol=2**-9)


def test_the_gradient_is_as_near_to_fp64_as_the_models_own() -> None:
    theirs, ours = norms(torch.bfloat16, learns=True)
    exact = copy.deepcopy(theirs).double()
    hidden = given(torch.bfloat16)

    def in_fp64(hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + theirs.variance_epsilon)
        return exact.weight * (hidden * scale)

    wide = hidden.detach().double().requires_grad_()
    torch.manual_seed(2)
    gradient = torch.randn_like(hidden).double()
    (true,) = torch.autograd.grad(in_fp64(wide), wide, gradient)

    def off(norm: nn.Module) -> float:
        return float((passed(norm, hidden)[1].double() - true).norm() / true.norm())

    assert 0 < off(ours) <= 1.01 * off(theirs)


def test_half_as_much_is_kept_for_the_backward_pass() -> None:
    def kept(norm: nn.Module) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = norm(given(torch.bfloat16))
        assert output.requires_grad
        return sum(storages.values())

    theirs, ours = norms(torch.bfloat16, learns=False)
    assert kept(ours) < 0.6 * kept(theirs)


def test_other_precisions_are_left_to_the_model() -> None:
    theirs, ours = norms(torch.float32, learns=True)
    hidden = given(torch.float32)
    assert all(map(torch.equal, passed(ours, hidden), passed(theirs, hidden)))
    assert "RmsNorm" not in type(ours(hidden).grad_fn).__name__
    _, narrow = norms(torch.bfloat16, learns=True)
    assert "RmsNorm" in type(narrow(given(torch.bfloat16)).grad_fn).__name__


@pytest.mark.parametrize(
    "other", [lambda: GemmaRMSNorm(WIDTH), lambda: Olmo2RMSNorm(WIDTH), lambda: nn.LayerNorm(WIDTH)]
)
def test_norms_that_compute_something_else_stay_as_they_are(
    other: Callable[[], nn.Module],
) -> None:
    norm = other()
    use_cpu_norms(norm)
    assert not is_ours(norm)


def test_a_copy_of_a_model_uses_its_own_weights() -> None:
    _, ours = norms(torch.bfloat16, learns=False)
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        twin.weight.zero_()
    hidden = given(torch.bfloat16)
    assert not twin(hidden).any()
    assert ours(hidden).any()


def test_a_model_is_loaded_with_them_on_a_cpu(tiny_model: Path) -> None:
    model = load_base_model(resolve_model(str(tiny_model)), "bf16", None, torch.device("cpu"))
    found = [module for module in model.modules() if type(module) is LlamaRMSNorm]
    assert len(found) == 1 + 2 * model.config.num_hidden_layers
    assert all(map(is_ours, found))
