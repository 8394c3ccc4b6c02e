"""Matrix products in bf16 on a CPU that has none.

oneDNN multiplies bf16 only with AVX512 or newer. Without it torch falls back to plain loops: on a
core with AVX2 a backward pass ran at 1 to 2 GFLOP/s, where fp32 products run at 60. Here bf16
products are computed in fp32 and rounded once, which is what the hardware instructions do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, get_kernel

VALUES_AT_ONCE = 1 << 20
"""Values of the largest matrix that are converted at a time: 4 MiB in fp32, which stays in the
cache and out of the peak. The output matrix of the bundled model alone would be 113 MB."""

FEW_ROWS = 4
"""So few rows, as in generation, take longer to convert the weights than torch's loops take."""

_KEPT: list[Library] = []
"""torch undoes what a library registered when the library is deleted."""


def use_cpu_products() -> bool:
    """Makes this process compute bf16 products in fp32 if its CPU multiplies no bf16.

    Returns whether it does so. Repeated calls change nothing.
    """
    if multiplies_bf16():
        return False
    if not _KEPT:
        _KEPT.append(_register())
    return True


def multiplies_bf16() -> bool:
    """Whether torch has fast bf16 products on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return True  # another library multiplies, of which nothing is known
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _register() -> Library:
    library = Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        for name in ("mm", "addmm", "bmm", "baddbmm"):
            for overload in (name, f"{name}.out"):
                library.impl(overload, _kernel(overload), "CPU", with_keyset=True)
    return library


def _kernel(name: str) -> Callable[..., Tensor]:
    torchs_own = get_kernel(f"aten::{name}", "CPU")

    def product(keys: Any, *operands: Tensor, **options: Any) -> Tensor:
        *start, left, right = operands
        few = left.dim() == 2 and left.shape[0] <= FEW_ROWS and right.stride(0) == 1
        if left.dtype is torch.bfloat16 and not few:
            return _multiply(left, right, *start, **options)
        result: Tensor = torchs_own.call_boxed(keys, *operands, **options)
        return result

    return product


def _multiply(
    left: Tensor,
    right: Tensor,
    start: Tensor | None = None,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * start + alpha * left @ right of bf16 operands, rounded to bf16 at the end."""
    shape = (*left.shape[:-1], right.shape[-1])
    if out is None:
        out = left.new_empty(shape)
    elif out.shape != shape:
        out.resize_(shape)
    if start is not None:
        start = start.expand(shape)
    for part, product in _products(left, right):
        if alpha != 1:
            product.mul_(alpha)
        if start is not None and beta != 0:
            product.add_(start[part], alpha=beta)
        out[part] = product
    return out


def _products(left: Tensor, right: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """The fp32 product of some rows, columns or matrices at a time, and where each belongs."""
    (*_, rows, inner), columns = left.shape, right.shape[-1]
    if left.dim() == 3:
        largest = max(rows * inner, inner * columns, rows * columns)
        for part in _slices(left.shape[0], largest):
            yield (part,), left[part].float() @ right[part].float()
    elif inner >= max(rows, columns):
        product = left.new_zeros(rows, columns, dtype=torch.float32)
        for part in _slices(inner, max(rows, columns)):
            product.addmm_(left[:, part].float(), right[part].float())
        yield (slice(None),), product
    elif columns >= rows:
        whole = left.float()
        for part in _slices(columns, max(rows, inner)):
            yield (slice(None), part), whole @ right[:, part].float()
    else:
        whole = right.float()
        for part in _slices(rows, max(columns, inner)):
            yield (part,), left[part].float() @ whole


def _slices(count: int, values: int) -> Iterator[slice]:
    """Slices of a dimension of `count`, whose every index takes `values` converted values."""
    step = max(1, VALUES_AT_ONCE // max(1, values))
    return (slice(first, first + step) for first in range(0, count, step))
