"""Products in bf16 on a CPU that multiplies none: computed in fp32 and rounded once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ftlab.models import cpu_products
from ftlab.models.cpu_products import _multiply

ROUNDING = 2.0**-8
"""Of bf16, which keeps 8 significant bits."""


@pytest.fixture(params=[1 << 20, 40, 1])
def values_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole matrix together, a few rows, and one after another."""
    monkeypatch.setattr(cpu_products, "VALUES_AT_ONCE", request.param)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


SHAPES = [
    ((7, 5), (5, 3)),
    ((3, 5), (5, 11)),
    ((4, 23), (23, 6)),
    ((2, 7, 5), (2, 5, 3)),
    ((5, 0), (0, 3)),
]


@pytest.mark.usefixtures("values_at_once")
@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [("product", {}), ("sum", {}), ("sum", {"beta": 0.5, "alpha": -2.0}), ("sum", {"beta": 0})],
)
def test_a_product_is_that_of_fp32_rounded_once(
    left: tuple[int, ...],
    right: tuple[int, ...],
    is_transposed: bool,
    name: str,
    options: dict[str, float],
) -> None:
    a, b = numbers(*left), numbers(*right)
    if is_transposed:  # the layout of a linear layer's weight
        b = b.mT.contiguous().mT
    if name == "product":
        expected, found = a.double() @ b.double(), _multiply(a, b)
    else:
        start = numbers(right[-1])  # a bias, which is broadcast
        beta, alpha = options.get("beta", 1), options.get("alpha", 1)
        expected = beta * start.double() + alpha * (a.double() @ b.double())
        found = _multiply(a, b, start, **options)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=ROUNDING, atol=1e-5)


def test_a_start_that_is_no_number_counts_only_if_it_is_added() -> None:
    """As torch documents it: with `beta` 0 the start is ignored."""
    start = torch.full((7, 3), float("nan")).bfloat16()
    a, b = numbers(7, 5), numbers(5, 3)
    assert _multiply(a, b, start, beta=0).isfinite().all()
    assert _multiply(a, b, start).isnan().all()


def test_a_given_output_is_filled_and_gets_the_shape() -> None:
    out = torch.empty(0).bfloat16()
    a, b = numbers(7, 5), numbers(5, 3)
    assert _multiply(a, b, out=out) is out
    assert torch.equal(out, _multiply(a, b))


CHECK = """
import torch
import torch.nn.functional as F
from ftlab.models import cpu_products
cpu_products.multiplies_bf16 = lambda: False
torch.manual_seed(0)
wide = [torch.randn(33, 17), torch.randn(17, 9), torch.randn(4, 6, 8), torch.randn(4, 8, 5)]
before = [wide[0] @ wide[1], torch.bmm(*wide[2:])]
calls = []
multiply = cpu_products._multiply
cpu_products._multiply = lambda *a, **k: (calls.append(a[0].shape), multiply(*a, **k))[1]
assert cpu_products.use_cpu_products() and cpu_products.use_cpu_products()
assert all(torch.equal(*pair) for pair in zip(before, [wide[0] @ wide[1], torch.bmm(*wide[2:])]))
assert not calls, "a product in fp32 was converted"

inputs, weight, bias = torch.randn(33, 17), torch.randn(9, 17), torch.randn(9)
inputs, weight, bias = (t.bfloat16().requires_grad_() for t in (inputs, weight, bias))
output = F.linear(inputs, weight, bias)
gradient = torch.randn(33, 9).bfloat16()
output.backward(gradient)
assert len(calls) == 3, calls
for found, expected in [
    (output, inputs.double() @ weight.double().T + bias.double()),
    (inputs.grad, gradient.double() @ weight.double()),
    (weight.grad, gradient.double().T @ inputs.double()),
]:
    torch.testing.assert_close(found.double(), expected.double(), rtol=2**-8, atol=1e-4)
with torch.inference_mode():
    again = F.linear(inputs, weight, bias)
assert torch.equal(again, output)
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert (wide[0] @ wide[1]).dtype is torch.bfloat16
"""


@pytest.mark.slow
def test_a_process_multiplies_so_if_its_cpu_multiplies_no_bf16() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", CHECK], check=True)


def test_a_process_is_left_alone_if_its_cpu_multiplies_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def register() -> None:
        pytest.fail("torch's products were replaced")

    monkeypatch.setattr(cpu_products, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(cpu_products, "_register", register)
    assert not cpu_products.use_cpu_products()
