"""Weights in oneDNN's layout: the same outputs, and plain products where they would not be."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ftlab.models.laid_out import (
    LaidOut,
    LaidOutLinear,
    bytes_to_lay_out,
    can_lay_out,
    free_layout,
    is_the_same_here,
    laid_out_meanwhile,
    lay_out,
    make_plain,
)

PLENTY = 1 << 30
WIDE = (320, 192)

bf16_products = pytest.mark.skipif(
    not is_the_same_here(), reason="this CPU multiplies no bf16 (oneDNN needs AVX512)"
)


def layers(dtype: torch.dtype = torch.bfloat16, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(*WIDE, bias), nn.SiLU(), nn.Linear(*WIDE[::-1], bias)).to(dtype)


def given(rows: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(rows, 1, WIDE[0], generator=torch.Generator().manual_seed(rows)).to(dtype)


def products(model: nn.Module) -> list[bool]:
    """Of each linear layer, whether it multiplies by a laid-out weight of its own."""
    found = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return [isinstance(one, LaidOutLinear) and one.laid_out.is_of(one.weight) for one in found]


@pytest.fixture
def model() -> nn.Sequential:
    return layers()


@bf16_products
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 24, 64, 300])
def test_in_bf16_outputs_are_the_same_bit_for_bit(rows: int, bias: bool) -> None:
    model = layers(bias=bias)
    with torch.inference_mode():
        expected = model(given(rows))
        lay_out(model, PLENTY)
        assert products(model) == [True, True]
        assert torch.equal(model(given(rows)), expected)


def test_in_fp32_outputs_are_the_same_within_rounding() -> None:
    model = layers(torch.float32)
    with torch.inference_mode():
        expected = model(given(5, torch.float32))
    assert lay_out(model, PLENTY) == 2 * 4 * WIDE[0] * WIDE[1]
    with torch.inference_mode():
        assert torch.allclose(model(given(5, torch.float32)), expected, atol=1e-5)


@bf16_products
def test_as_many_are_laid_out_as_there_is_room_for(model: nn.Sequential) -> None:
    one = 2 * WIDE[0] * WIDE[1]
    assert lay_out(model, 2 * one - 1) == one
    assert products(model) == [True, False]
    assert lay_out(layers(), one - 1) == 0


@bf16_products
def test_what_must_stay_exact_is_laid_out_in_bf16_alone() -> None:
    one = 2 * WIDE[0] * WIDE[1]
    both = nn.Sequential(layers(torch.float32), layers())
    assert bytes_to_lay_out(both, PLENTY) == 6 * one
    assert bytes_to_lay_out(both, PLENTY, exact=True) == 2 * one
    assert products(both) == [False] * 4, "only counted"
    with laid_out_meanwhile(both, 2 * one - 1):
        assert products(both) == [False, False, True, False]
    assert [type(layer) for layer in both[1]] == [nn.Linear, nn.SiLU, nn.Linear]


@bf16_products
def test_an_error_meanwhile_leaves_the_layers_as_they_were(model: nn.Sequential) -> None:
    with pytest.raises(KeyError), laid_out_meanwhile(model, PLENTY):
        raise KeyError
    assert [type(layer) for layer in model] == [nn.Linear, nn.SiLU, nn.Linear]


@bf16_products
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_the_layout_where_it_multiplies_in_the_same_dtype(
    model: nn.Sequential, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        expected = model(given(5))
    lay_out(model, PLENTY)
    multiply = LaidOut.product
    monkeypatch.setattr(
        LaidOut, "product", lambda *given: calls.append(given[1]) or multiply(*given)
    )
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        assert torch.equal(model(given(5)), expected)
    assert len(calls) == (2 if dtype is torch.bfloat16 else 0)


@bf16_products
def test_a_copy_on_the_same_weights_shares_them_and_one_with_its_own_does_not(
    model: nn.Sequential,
) -> None:
    lay_out(model, PLENTY)
    same: Any = deepcopy(model, {id(one): one for one in model.parameters()})
    assert products(same) == [True, True]
    assert same[0].laid_out is model[0].laid_out
    own = deepcopy(model)
    assert products(own) == [False, False]
    with torch.no_grad():
        own[0].weight.zero_()
        assert torch.equal(own[0](given(3)), model[0].bias.expand(3, 1, -1))


@bf16_products
def test_a_layout_is_freed_for_all_copies_and_one_copy_can_be_made_plain(
    model: nn.Sequential,
) -> None:
    expected = model(given(3))
    lay_out(model, PLENTY)
    weights = {id(one): one for one in model.parameters()}
    clone, other = deepcopy(model, dict(weights)), deepcopy(model, dict(weights))
    make_plain(other)
    assert [type(layer) for layer in other] == [nn.Linear, nn.SiLU, nn.Linear]
    assert products(clone) == [True, True]
    assert free_layout(model)
    assert not free_layout(model)
    assert products(clone) == products(model) == [False, False]
    for one in model, clone, other:
        assert torch.equal(one(given(3)), expected)


@bf16_products
def test_a_bias_that_learns_gets_its_gradient(model: Any) -> None:
    lay_out(model, PLENTY)
    model.requires_grad_(False)
    model[2].bias.requires_grad_()
    model(given(3)).float().sum().backward()
    assert model[2].bias.grad is not None


@bf16_products
@pytest.mark.parametrize("way", ["in place", "replaced", "data"])
def test_a_weight_that_changed_is_multiplied_as_it_is_now(model: nn.Sequential, way: str) -> None:
    lay_out(model, PLENTY)
    layer: Any = model[0]
    zero = torch.zeros_like(layer.weight)
    with torch.no_grad():
        if way == "in place":
            layer.weight.zero_()
        elif way == "replaced":
            layer.weight = nn.Parameter(zero)
        else:
            layer.weight.data = zero
        assert torch.equal(layer(given(3)), layer.bias.expand(3, 1, -1))


@bf16_products
def test_gradients_are_those_of_plain_products(model: nn.Sequential) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        inputs = given(5).requires_grad_()
        model(inputs).float().pow(2).sum().backward()
        return [one.grad for one in (inputs, *model.parameters()) if one.grad is not None]

    expected = gradients()
    lay_out(model, PLENTY)
    assert len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))


class Attention(nn.Module):
    """The layers of a block that get the same input, by the names of most architectures."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj = nn.Linear(*WIDE, bias=False, dtype=dtype)
        self.k_proj = nn.Linear(WIDE[0], 104, bias=False, dtype=dtype)
        self.v_proj = nn.Linear(WIDE[0], 104, bias=False, dtype=dtype)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Each layer's output for its input."""
        return [layer(one) for layer, one in zip(self.children(), inputs, strict=True)]


@bf16_products
@pytest.mark.parametrize("rows", [1, 5, 64, 300])
def test_layers_with_the_same_input_are_one_product_with_the_same_outputs(rows: int) -> None:
    block = Attention(torch.bfloat16)
    one = given(rows)
    with torch.inference_mode():
        expected = block(one, one, one)
        assert lay_out(block, PLENTY) == 2 * WIDE[0] * (WIDE[1] + 208)
        laid_out = block.q_proj.laid_out
        assert block.k_proj.laid_out is block.v_proj.laid_out is laid_out
        for _ in range(2):
            found = block(one, one, one)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert found[0].data_ptr() + 2 * WIDE[1] == found[1].data_ptr(), "not one product"
            assert laid_out.shared.kept is None


@bf16_products
def test_layers_whose_inputs_differ_after_all_have_their_own_outputs() -> None:
    block = Attention(torch.bfloat16)
    inputs = [given(5), given(5) * 2, given(6)]
    with torch.inference_mode():
        expected = block(*inputs)
        lay_out(block, PLENTY)
        for _ in range(2):
            found = block(*inputs)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@bf16_products
def test_of_layers_with_one_product_a_changed_one_is_multiplied_by_itself() -> None:
    block = Attention(torch.bfloat16)
    one = given(5)
    with torch.no_grad():
        expected = block(one, one, one)
        lay_out(block, PLENTY)
        block.k_proj.weight.zero_()
        block.v_proj.bias = nn.Parameter(torch.ones(104, dtype=torch.bfloat16))
        q, k, v = block(one, one, one)
    assert torch.equal(q, expected[0])
    assert not k.any()
    assert torch.allclose(v, expected[2] + 1, atol=0.02)


@bf16_products
def test_layers_with_the_same_input_are_laid_out_together_or_not_at_all() -> None:
    block = Attention(torch.bfloat16)
    assert lay_out(block, 2 * WIDE[0] * (WIDE[1] + 208) - 1) == 0


def test_small_weights_other_dtypes_and_other_devices_are_left_as_they_are() -> None:
    model = nn.Sequential(
        nn.Linear(16, 16, dtype=torch.bfloat16),
        nn.Linear(*WIDE, dtype=torch.float16),
        nn.Linear(*WIDE, dtype=torch.bfloat16, device="meta"),
    )
    assert lay_out(model, PLENTY) == 0
    assert [type(layer) for layer in model] == [nn.Linear] * 3
    assert not can_lay_out(torch.empty(16, 16, dtype=torch.bfloat16))
