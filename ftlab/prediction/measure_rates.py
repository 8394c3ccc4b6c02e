"""Measures the rates of a device in about three seconds, and keeps them (`machine_rates`).

Run as: python -m ftlab.prediction.measure_rates DEVICE

The caller holds the lock of the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ftlab.basics.devices import cpu_count, resolve_device
from ftlab.basics.locks import TimedSteps
from ftlab.models.libraries import prepare_for_libraries
from ftlab.models.loading import use_kernels
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import keep_rates, kept_rates
from ftlab.prediction.simulation.work import WorkLog
from ftlab.training.machine import QUIET_LOAD, LoadMeter

_SECONDS = 0.15  # for each rate, after as long for warming up
_ON_CPU, _ON_GPU = (12, 288, 576, 1536), (4, 4_096, 4_096, 4_096)
"""How many different weights in turn, rows, inner and columns of the products: on a CPU those of
the bundled model's MLP. The same weight again would come from the cache. On a CPU whose 16-bit
products convert their weights, that alone made them look twice as fast."""

_BYTES_IN_MEMORY = 64 << 20
"""Between two uses of an activation a step reads and writes more than a cache holds."""

_FEW_ROWS = 16
_ATTEMPTS, _ENOUGH_SECONDS = 4, 6.0

_LAYERS, _WIDTH = 20, 8
"""So small that only the calls take time, with what autograd and modules add to each."""


def main(arguments: list[str]) -> int:
    device = resolve_device(arguments[0])
    prepare_for_libraries(device.id)
    measured = measure_quietly(torch.device("cuda" if device.is_cuda else device.id))
    keep_rates(device, measured.best(kept_rates(device)))
    return 0


def measure_quietly(device: torch.device) -> Rates:
    """The rates of the device; while other processes use the cores, the best of some attempts.

    Where they used most of them the rates were seen to be twenty times too low. Predictions rest
    meanwhile, as beside timed steps.
    """
    found: Rates | None = None
    began = time.perf_counter()
    with TimedSteps(device.type).timed():
        for _ in range(_ATTEMPTS):
            load = LoadMeter()
            now = measure(device)
            is_quiet = load.read()[1] <= QUIET_LOAD
            found = replace(now, quiet=is_quiet).best(found)
            if is_quiet or time.perf_counter() - began > _ENOUGH_SECONDS:
                break
    assert found is not None
    return found


def measure(device: torch.device) -> Rates:
    """The rates of products, memory and calls."""
    torch.set_num_threads(cpu_count())  # as a run does
    use_kernels(device)
    is_gpu = device.type != "cpu"
    kernels = _Kernels(device, *(_ON_GPU if is_gpu else _ON_CPU))
    call_seconds = kernels.call_seconds()
    return Rates(
        narrow=kernels.products(torch.bfloat16),
        wide=kernels.products(torch.float32),
        bytes=kernels.element_wise(0.0 if is_gpu else call_seconds),
        call_seconds=call_seconds,
        overlaps=is_gpu,
        few_rows=kernels.few_rows(),
        unpacked=0.0 if is_gpu else kernels.unpacked(),
    )


@dataclass(frozen=True)
class _Kernels:
    """What is measured: products of (rows, inner) with each of the `weights` in turn, which are
    (columns, inner), and what a layer computes besides."""

    device: torch.device
    weights: int
    rows: int
    inner: int
    columns: int

    def call_seconds(self) -> float:
        small = _small_layers().to(self.device)
        inputs = torch.ones(4, _WIDTH, device=self.device)

        def step() -> None:
            small(inputs).sum().backward()

        with WorkLog() as log:
            step()
        return self._seconds(step) / log.take().calls

    def products(self, dtype: torch.dtype) -> float:
        """Operations a second of a forward pass and of the gradients of its inputs."""
        weights = self._several(dtype)
        inputs, gradients = (
            torch.randn(self.rows, width, device=self.device).to(dtype)
            for width in (self.inner, self.columns)
        )

        def both() -> None:
            for weight in weights:
                torch.mm(inputs, weight.t())
                torch.mm(gradients, weight)

        operations = 4 * self.rows * self.inner * self.columns
        return len(weights) * operations / self._seconds(both)

    def few_rows(self) -> float:
        """Bytes of 16-bit weights a second."""
        weights = self._several(torch.bfloat16)
        inputs = torch.randn(_FEW_ROWS, self.inner, device=self.device).to(torch.bfloat16)
        seconds = self._seconds(lambda: [torch.mm(inputs, one.t()) for one in weights])
        return sum(one.nbytes for one in weights) / seconds

    def element_wise(self, call_seconds: float) -> float:
        """Bytes a second of what a layer computes between its products, as `WorkLog` counts them,
        on more numbers than a cache holds. A call's own seconds are left out."""
        one = torch.randn(self.rows, self.columns, device=self.device).to(torch.bfloat16)
        numbers = [one.clone() for _ in range(max(2, _BYTES_IN_MEMORY // one.nbytes))]

        def normed_and_activated() -> None:
            for left, right in zip(numbers[::2], numbers[1::2], strict=False):
                wide = left.float()
                normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True))
                functional.silu(normed.to(left.dtype)) * right

        with WorkLog() as log:
            normed_and_activated()
        counted, seconds = log.take(), self._seconds(normed_and_activated)
        return counted.bytes / max(seconds - counted.calls * call_seconds, seconds / 2)

    def unpacked(self) -> float:
        """Numbers of 4-bit weights a second."""
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        packed = [quantize_4bit(one, quant_type="nf4") for one in self._several(torch.bfloat16)]
        seconds = self._seconds(lambda: [dequantize_4bit(*one) for one in packed])
        return len(packed) * self.inner * self.columns / seconds

    def _several(self, dtype: torch.dtype) -> list[Tensor]:
        shape = self.columns, self.inner
        return [torch.randn(shape, device=self.device).to(dtype) for _ in range(self.weights)]

    def _seconds(self, work: Callable[[], object]) -> float:
        """Seconds of the work when nothing disturbs it: the fastest tenth takes at most as long."""
        for limit in (_SECONDS, _SECONDS):
            taken: list[float] = []
            while sum(taken) < limit:
                began = time.perf_counter()
                work()
                if self.device.type != "cpu":
                    torch.accelerator.synchronize()
                taken.append(time.perf_counter() - began)
        return sorted(taken)[len(taken) // 10]


def _small_layers() -> nn.Module:
    layers = [(nn.Linear(_WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.SiLU()) for _ in range(_LAYERS)]
    return nn.Sequential(*(module for three in layers for module in three))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
