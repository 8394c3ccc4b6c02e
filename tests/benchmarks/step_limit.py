"""How near a training step is to its limit: its own matrix products, run alone.

Run as: python -m tests.benchmarks.step_limit [--methods full lora qlora prompt_tuning]
        [--policy bf16] [--steps 5] [--repeats 3] [--model FOLDER] [--json FILE]

Trains each method on SQL, batch 8, and notes the products of every step: `mm`, `addmm`, `bmm`,
`baddbmm`, with those of attention, and those of 4-bit layers as if they were unpacked. (In fp32
torch's attention is one call, whose products are not noted.) Then trains again without taking
notes, and runs the products alone, in the same order, shapes and layouts, on random numbers, turn
about; the first step of each training is left out. Prints the median seconds of a step and of its
products, and their ratio. Ends with status 1 if a ratio is above its bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ftlab.basics.devices import cpu_count
from ftlab.methods.registry import METHODS
from ftlab.models.libraries import prepare_for_libraries
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.training.step import Arithmetic
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.bundled import CPU, Bundled

MOST = {"full": 1.25}
MOST_OF_OTHERS = 1.5
PACKED_PRODUCT = "bitsandbytes::gemm_4bit"
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})

_POOL_BYTES = 64 << 20  # more than a cache holds: each layer of a step has weights of its own
_MOST_IN_POOL = 32

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype of an operand."""


@dataclass(frozen=True)
class Product:
    """One call: its function, the layouts of its operands, and its numbers."""

    function: Any
    operands: tuple[Layout, ...]
    numbers: tuple[tuple[str, Any], ...]


@dataclass
class Notes(TorchDispatchMode):
    """Takes notes of the products of each step."""

    steps: list[list[Product]] = field(default_factory=lambda: [[]])

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in PRODUCTS:
            numbers = {k: v for k, v in (kwargs or {}).items() if not isinstance(v, Tensor)}
            layouts = tuple((tuple(t.shape), t.stride(), t.dtype) for t in args)
            self.steps[-1].append(Product(func._overloadpacket, layouts, tuple(numbers.items())))
        result = func(*args, **(kwargs or {}))
        if func._schema.name == PACKED_PRODUCT:
            self.steps[-1].append(unpacked(args[0], result))
        return result

    def next_step(self) -> None:
        self.steps.append([])


def unpacked(left: Tensor, result: Tensor) -> Product:
    """The product of a 4-bit layer, as if its weight were there in the dtype of its input."""
    inner, columns = left.shape[-1], result.shape[-1]
    layouts: tuple[Layout, ...] = (
        ((left.numel() // inner, inner), (inner, 1), left.dtype),
        ((inner, columns), (1, inner), left.dtype),
    )
    return Product(torch.ops.aten.mm, layouts, ())


class Pools:
    """Operands of each layout: so many that their values have left the cache when they return."""

    def __init__(self) -> None:
        self._pools: dict[Layout, cycle[Tensor]] = {}

    def operand(self, layout: Layout) -> Tensor:
        if layout not in self._pools:
            shape, strides, dtype = layout
            first = torch.empty_strided(shape, strides, dtype=dtype)
            count = _POOL_BYTES // max(1, first.untyped_storage().nbytes())
            each = [first.normal_()]
            for _ in range(max(0, min(count, _MOST_IN_POOL) - 1)):
                each.append(torch.empty_strided(shape, strides, dtype=dtype).copy_(first))
            self._pools[layout] = cycle(each)
        return next(self._pools[layout])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How near a step is to its matrix products.")
    core = ("full", "lora", "qlora", "prompt_tuning")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=core)
    parser.add_argument("--policy", choices=DTYPE_POLICIES, default="bf16")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps is {options.steps}; the first step is left out, so at least 2")
    print(rate := product_rate(), flush=True)
    torch.set_num_threads(cpu_count())
    bundled = Bundled.load(model=options.model)
    figures: dict[str, Any] = {}
    for method in options.methods:
        figures[method] = found = measure(bundled, method, options)
        print(
            f"{method}: a step takes {found['step']:.3f} s, its {found['calls']} products "
            f"{found['products']:.3f} s: {found['ratio']:.2f}x (at most "
            f"{MOST.get(method, MOST_OF_OTHERS)}x)",
            flush=True,
        )
    if options.json:
        write_figures(options.json, figures, rate)
    good = all(found["ratio"] <= MOST.get(m, MOST_OF_OTHERS) for m, found in figures.items())
    return 0 if good else 1


def measure(bundled: Bundled, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of the steps after the first and of their products, and the median ratio."""
    notes = Notes()
    with notes:
        train(bundled, method, options, notes.next_step)
    noted = notes.steps[1 : options.steps]
    ratios, steps, products = [], [], []
    pools = Pools()
    for _ in range(options.repeats):
        seconds = train(bundled, method, options)[1:]
        alone = [run(step, pools) for step in noted]
        steps += seconds
        products += alone
        ratios.append(sum(seconds) / sum(alone))
    return {
        "step": statistics.median(steps),
        "products": statistics.median(products),
        "ratio": statistics.median(ratios),
        "calls": len(noted[0]),
    }


def train(
    bundled: Bundled, method: str, options: argparse.Namespace, stepped: Any = lambda: None
) -> list[float]:
    """The seconds of each step; `stepped` is called after each."""
    settings = TrainingSettings(steps=options.steps, batch_size=8)
    arithmetic = Arithmetic(options.policy, CPU)
    model = bundled.model(method, options.policy)
    order = bundled.order(settings, seed=0)

    def report(event: dict[str, Any]) -> None:
        if event.get("event") == "step":
            stepped()

    return list(bundled.train(model, method, arithmetic, settings, order, report).seconds)


def run(step: Sequence[Product], pools: Pools) -> float:
    """Seconds of the products of a step, without what it takes to make their operands."""
    for product in step:
        for layout in product.operands:
            pools.operand(layout)  # made before the clock starts
    began = time.perf_counter()
    with torch.no_grad():
        for product in step:
            operands = [pools.operand(layout) for layout in product.operands]
            product.function(*operands, **dict(product.numbers))
    return time.perf_counter() - began


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
