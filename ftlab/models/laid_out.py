"""Weights of linear layers in oneDNN's own layout, for answers on a CPU: in the playground as long
as there is memory, and while a run is scored.

torch multiplies bf16 by oneDNN there, which lays the weight out anew for each product. With the few
rows of one more token of each answer, that takes as long as the product itself. In bf16 the result
is the same bit for bit. In fp32 torch multiplies by MKL, which adds in another order and takes
twice as long with few rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from ftlab.models.cpu_products import multiplies_bf16

_ROWS = 16
"""For which oneDNN chooses the layout; it takes any number."""

_SMALLEST, _FEWEST_OUTPUTS = 1 << 15, 16
"""Numbers of a weight, and its outputs: with fewer, torch has another product, which may round
otherwise."""


WITH_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers of one parent that get the same input in most architectures. Where their inputs
differ, each of them computes the product of all, which is right but slower."""


class SharedProduct:
    """A product that several layers have parts of, computed at the first that asks with an input.

    Nothing is kept of an input once every layer has its part: of a long prompt, both are large.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths` are the columns of each layer's part."""
        self._ends = list(accumulate(widths, initial=0))
        self._served: set[int] = set()
        self._input: weakref.ref[Tensor] | None = None
        self.kept: Tensor | None = None

    def part(self, number: int, given: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """That layer's columns of the product of `given`, a view of those of all."""
        known = self._input() if self._input is not None else None
        if self.kept is None or known is not given or number in self._served:
            self._input, self.kept, self._served = weakref.ref(given), compute(given), set()
        columns = self.kept[..., self._ends[number] : self._ends[number + 1]]
        self._served.add(number)
        if len(self._served) == len(self._ends) - 1:
            self.kept = None
        return columns


class LaidOut:
    """Weights (outputs, inputs) in oneDNN's layout, as one; copies of a model share it.

    Of several weights the product is computed at the first layer that asks with an input, and the
    others take their part of it: with few rows the threads wait for each other at every product for
    as long as a small one takes.
    """

    def __init__(self, *weights: Tensor) -> None:
        self._of = [(weight, weight.data_ptr(), weight._version) for weight in weights]
        self._numbers = {id(weight): number for number, weight in enumerate(weights)}
        self.shared = SharedProduct([len(weight) for weight in weights])
        joined = weights[0].detach() if len(weights) == 1 else torch.cat(weights).detach()
        self._weight: Tensor | None
        self._weight = in_layout(joined)

    def free(self) -> None:
        """Frees the layout, for all copies that share it."""
        self._weight = self.shared.kept = None

    def is_of(self, weight: Tensor) -> bool:
        """Whether it was made of that tensor, which was not changed since, and not freed.

        What is written by way of the tensor's `data` is not noticed.
        """
        number = self._numbers.get(id(weight))
        if number is None or self._weight is None:
            return False
        of, place, version = self._of[number]
        return weight is of and weight.data_ptr() == place and weight._version == version

    def linear(self, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `torch.nn.functional.linear`, by the layout where that is possible.

        It does not where gradients are needed, where autocast would multiply in another dtype, and
        once the weight was replaced or changed in place.
        """
        if (
            given.dtype is weight.dtype
            and given.numel()
            and not (torch.is_grad_enabled() and _learns(given, weight, bias))
            and _computes_in(weight.dtype)
            and self.is_of(weight)
        ):
            if len(self._of) == 1:
                return self.product(given, bias)
            if bias is None:  # no layer had one when the weights were joined
                return self.shared.part(self._numbers[id(weight)], given, self.product)
        return functional.linear(given, weight, bias)

    def product(self, given: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product of all weights with `given`, all of one dtype. Has no gradient."""
        return product(self._weight, given, bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> LaidOut:
        return self


def in_layout(weight: Tensor) -> Tensor:
    """A copy of the weight for `product` alone; the tensor itself need not be kept."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return found


def product(layout: Tensor | None, given: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of a weight in that layout with `given`. Has no gradient."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(given, layout, bias, "none", [], "")
    return found


def _learns(given: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return given.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)


def _computes_in(dtype: torch.dtype) -> bool:
    is_cast = torch.is_autocast_enabled("cpu")
    return not is_cast or torch.get_autocast_dtype("cpu") is dtype


class LaidOutLinear(nn.Linear):
    """A linear layer that multiplies by its laid-out weight where that can be used."""

    laid_out: LaidOut

    def forward(self, given: Tensor) -> Tensor:
        return self.laid_out.linear(given, self.weight, self.bias)


def lay_out(model: nn.Module, room: int, exact: bool = False) -> int:
    """Lays out the weights of the model's linear layers on a CPU, as many as fit in `room` bytes.

    With `exact`, only those whose products stay the same bit for bit. Returns the bytes they take.
    """
    chosen = _fitting(model, room, exact)
    for layers in chosen:
        laid_out = LaidOut(*(layer.weight for layer in layers))
        for layer in layers:
            layer.__class__ = LaidOutLinear
            layer.laid_out = laid_out
    return sum(map(_weight_bytes, chosen))


def bytes_to_lay_out(model: nn.Module, room: int, exact: bool = False) -> int:
    """The bytes that `lay_out` would take."""
    return sum(map(_weight_bytes, _fitting(model, room, exact)))


@contextmanager
def laid_out_meanwhile(model: nn.Module, room: int) -> Iterator[None]:
    """Lays out weights in at most `room` bytes meanwhile; outputs stay the same bit for bit."""
    lay_out(model, room, exact=True)
    try:
        yield
    finally:
        free_layout(model)


def _fitting(model: nn.Module, room: int, exact: bool) -> list[list[Any]]:
    """The layers to lay out, those together that share a product, in the order of the model."""
    chosen = []
    for layers in _with_same_input(model, exact):
        if _weight_bytes(layers) <= room:
            chosen.append(layers)
            room -= _weight_bytes(layers)
    return chosen


def _weight_bytes(layers: Sequence[Any]) -> int:
    return sum(layer.weight.nbytes for layer in layers)


def _with_same_input(model: nn.Module, exact: bool) -> list[list[Any]]:
    """The layers that can be laid out, those together whose products can be computed as one."""
    found: dict[object, list[Any]] = {}
    for path, layer in model.named_modules():
        if type(layer) is nn.Linear and _is_plain(layer) and can_lay_out(layer.weight, exact):
            parent, _, name = path.rpartition(".")
            names = next((names for names in WITH_SAME_INPUT if name in names), ())
            joins = bool(names) and layer.bias is None
            group = (parent, names, layer.in_features, layer.weight.dtype) if joins else path
            found.setdefault(group, []).append(layer)
    return list(found.values())


def free_layout(model: nn.Module) -> bool:
    """Frees the layout of the model's weights, which its copies share; whether there was any."""
    layers = _of_kind(model, LaidOutLinear)
    for layer in layers:
        layer.laid_out.free()
    make_plain(model)
    return bool(layers)


def make_plain(model: nn.Module) -> None:
    """Makes laid-out layers plain ones again; copies of the model keep theirs."""
    for layer in _of_kind(model, LaidOutLinear):
        del layer.laid_out
        layer.__class__ = nn.Linear


def _of_kind(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in model.modules() if type(layer) is kind]


def can_lay_out(weight: Tensor, exact: bool = False) -> bool:
    """Whether products with it gain from a layout, and in bf16 or with `exact` stay the same."""
    if weight.device.type != "cpu" or weight.numel() < _SMALLEST:
        return False
    if len(weight) < _FEWEST_OUTPUTS:
        return False
    if weight.dtype is torch.float32:
        return not exact and torch.backends.mkldnn.is_available()
    return weight.dtype is torch.bfloat16 and is_the_same_here()


def _is_plain(layer: nn.Linear) -> bool:
    """Whether changes of its weight are counted, and its bias is of the same dtype."""
    has_bias = layer.bias is not None
    is_one_dtype = not has_bias or layer.bias.dtype is layer.weight.dtype
    return is_one_dtype and not layer.weight.is_inference()


@lru_cache(maxsize=1)
def is_the_same_here() -> bool:
    """Whether torch multiplies bf16 by oneDNN on this CPU, and a laid-out weight gives the same.

    Also in a fake mode, which computes no products itself.
    """
    if not torch.backends.mkldnn.is_available() or not multiplies_bf16():
        return False
    with _disable_current_modes():
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(192, 320, generator=generator).bfloat16()
        layout = in_layout(weight)
        given = (torch.randn(rows, 320, generator=generator).bfloat16() for rows in (1, 5, 33))
        return all(
            torch.equal(product(layout, one), functional.linear(one, weight)) for one in given
        )
