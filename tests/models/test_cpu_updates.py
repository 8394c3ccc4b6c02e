"""The updates of a whole model on a CPU in bf16: torch's numbers with less work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ftlab.models.cpu_updates import clip_within_step, norm_of
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model

BF16, FP32 = torch.bfloat16, torch.float32
SHAPES = ((96, 48), (48, 96), (2, 3, 48), (48,))


def weights(dtype: torch.dtype = BF16, size: float = 1.0) -> list[nn.Parameter]:
    """The same weights and gradients each time; the norm of all gradients is about 98 `size`."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = (size * torch.randn(parameter.shape)).to(dtype)
    return made


def fused(parameters: Sequence[nn.Parameter], **options: Any) -> AdamW:
    return AdamW(parameters, lr=0.1, fused=True, **options)


def true_norm(parameters: Sequence[nn.Parameter]) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.cat([g.double().flatten() for g in gradients]).norm())


@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["clipped", "small enough"])
def test_gradients_and_weights_after_a_step_are_those_of_torchs_own_clipping(size: float) -> None:
    ours, theirs = weights(size=size), weights(size=size)
    norm = clip_within_step(step := fused(ours), ours, 0.5)
    assert norm is not None
    step.step()
    other = nn.utils.clip_grad_norm_(theirs, 0.5)
    fused(theirs).step()
    torch.testing.assert_close(norm, other.float(), rtol=2**-8, atol=0)
    for one, another in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, another.grad, rtol=2**-6, atol=0)
        torch.testing.assert_close(one, another, rtol=2**-7, atol=2**-9)
    assert true_norm(ours) == pytest.approx(min(0.5, size * 98), rel=0.02)


def test_each_step_clips_by_its_own_norm() -> None:
    parameters = weights()
    optimizer = fused(parameters)
    for size in (1.0, 1e-3, 1.0):
        for parameter, fresh in zip(parameters, weights(size=size), strict=True):
            parameter.grad = fresh.grad
        clip_within_step(optimizer, parameters, 0.5)
        optimizer.step()
        assert true_norm(parameters) == pytest.approx(min(0.5, size * 98), rel=0.02)


def test_the_norm_is_nearer_to_fp64_than_torchs() -> None:
    parameters = weights()
    true = true_norm(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    theirs = float(nn.utils.get_total_norm(gradients))
    assert abs(float(norm_of(gradients)) - true) < abs(theirs - true)
    assert float(norm_of(gradients)) == pytest.approx(true, rel=1e-3)


def test_a_gradient_that_is_not_finite_is_seen_in_the_norm() -> None:
    parameters = weights()
    assert parameters[1].grad is not None
    parameters[1].grad[3, 4] = torch.inf
    norm = clip_within_step(fused(parameters), parameters, 0.5)
    assert norm is not None
    assert not norm.isfinite()


@pytest.mark.parametrize(
    ("dtype", "made"),
    [
        (FP32, fused),
        (BF16, lambda parameters: AdamW(parameters, fused=False)),
        (BF16, SGD),
    ],
    ids=["fp32", "AdamW that is not fused", "another optimizer"],
)
def test_all_else_is_left_to_torch(
    dtype: torch.dtype, made: Callable[[list[nn.Parameter]], Optimizer]
) -> None:
    parameters = weights(dtype)
    optimizer = made(parameters)
    assert clip_within_step(optimizer, parameters, 0.5) is None
    assert getattr(optimizer, "grad_scale", None) is None


def test_without_gradients_nothing_is_clipped() -> None:
    parameters = weights()
    for parameter in parameters:
        parameter.grad = None
    assert clip_within_step(fused(parameters), parameters, 0.5) is None


def gradient_of_tokens(model: Any, sparse: bool) -> Tensor:
    """That of the token embeddings, of two batches with a token that occurs in both."""
    tokens = model.get_input_embeddings()
    tokens.sparse = sparse
    model.zero_grad()
    for batch in ([[5, 6, 7, 5]], [[8, 5, 9, 9]]):
        ids = torch.tensor(batch)
        model(input_ids=ids, labels=ids).loss.backward()
    assert tokens.weight.grad.layout is torch.strided
    found: Tensor = tokens.weight.grad
    return found.clone()


def test_tied_embeddings_get_the_same_gradient_by_rows(tiny_model: Path) -> None:
    source, device = resolve_model(str(tiny_model)), torch.device("cpu")
    model: Any = load_base_model(source, "bf16", None, device, weights_learn=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().sparse
    by_rows, whole = gradient_of_tokens(model, True), gradient_of_tokens(model, False)
    torch.testing.assert_close(by_rows, whole, rtol=2**-6, atol=2**-9)


@pytest.mark.parametrize(
    ("policy", "learns", "tied"),
    [("fp32", True, True), ("bf16", False, True), ("bf16", True, False)],
    ids=["fp32", "frozen weights", "an output layer of its own"],
)
def test_other_embeddings_stay_as_they_are(
    policy: Any, learns: bool, tied: bool, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tied:
        untie(monkeypatch)
    source, device = resolve_model(str(tiny_model)), torch.device("cpu")
    model: Any = load_base_model(source, policy, None, device, weights_learn=learns)
    assert not model.get_input_embeddings().sparse
    if learns:
        assert gradient_of_tokens(model, False).any()


def untie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are loaded from now on have an output layer of their own."""
    from ftlab.models import loading

    load = loading.AutoModelForCausalLM.from_pretrained

    def loaded(*given: Any, **options: Any) -> Any:
        model = load(*given, **options)
        vocabulary, width = model.get_output_embeddings().weight.shape
        output = nn.Linear(width, vocabulary, bias=False)
        model.lm_head = output.to(model.dtype)
        return model

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", loaded)
