"""Measures the rates of a device in about two seconds, and keeps them (`machine_rates`).

Run as: python -m ftlab.prediction.measure_rates DEVICE

The caller holds the lock of the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ftlab.basics.devices import cpu_count, resolve_device
from ftlab.models.libraries import prepare_for_libraries
from ftlab.models.loading import use_kernels
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import keep_rates, kept_rates
from ftlab.prediction.simulation.work import WorkLog
from ftlab.training.machine import QUIET_LOAD, LoadMeter

_SECONDS = 0.15  # for each rate, after as long for warming up
_ON_CPU, _ON_GPU = (288, 576, 1536), (4_096, 4_096, 4_096)
"""Rows, inner and columns of a product: on a CPU those of the bundled model's MLP."""

_WEIGHTS_ON_CPU, _WEIGHTS_ON_GPU = 12, 4
"""Different weights in turn, as in a step: the same one again would come from the cache. On a CPU
whose 16-bit products convert their weights, that alone made them look twice as fast."""

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

    Where they used most of them the rates were seen to be twenty times too low.
    """
    found: Rates | None = None
    began = time.perf_counter()
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
    rows, inner, columns = _ON_GPU if is_gpu else _ON_CPU
    count = _WEIGHTS_ON_GPU if is_gpu else _WEIGHTS_ON_CPU
    narrow_type = torch.bfloat16

    def several(dtype: torch.dtype, rows: int, columns: int) -> list[Tensor]:
        return [torch.randn(rows, columns, device=device).to(dtype) for _ in range(count)]

    def products(dtype: torch.dtype) -> float:
        """Operations a second of a forward pass and of the gradients of its inputs."""
        weights = several(dtype, columns, inner)
        inputs, gradients = (
            torch.randn(rows, width, device=device).to(dtype) for width in (inner, columns)
        )

        def both() -> None:
            for weight in weights:
                torch.mm(inputs, weight.t())
                torch.mm(gradients, weight)

        return count * 4 * rows * inner * columns / _seconds(both, device)

    def few_rows() -> float:
        """Bytes of weights a second."""
        weights = several(narrow_type, columns, inner)
        inputs = torch.randn(_FEW_ROWS, inner, device=device).to(narrow_type)
        seconds = _seconds(lambda: [torch.mm(inputs, one.t()) for one in weights], device)
        return sum(map(_size, weights)) / seconds

    def additions() -> float:
        """Bytes a second that are read and written."""
        numbers = several(narrow_type, rows, columns)
        return (
            3 * sum(map(_size, numbers)) / _seconds(lambda: [one + one for one in numbers], device)
        )

    small = _small_layers().to(device)
    inputs = torch.ones(4, _WIDTH, device=device)

    def step() -> None:
        small(inputs).sum().backward()

    with WorkLog() as log:
        step()
    calls = log.take().calls

    return Rates(
        narrow=products(narrow_type),
        wide=products(torch.float32),
        bytes=additions(),
        call_seconds=_seconds(step, device) / calls,
        overlaps=is_gpu,
        few_rows=few_rows(),
    )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _small_layers() -> nn.Module:
    layers = [(nn.Linear(_WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.SiLU()) for _ in range(_LAYERS)]
    return nn.Sequential(*(module for three in layers for module in three))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the work when nothing disturbs it: the fastest tenth takes at most as long."""
    for limit in (_SECONDS, _SECONDS):
        taken: list[float] = []
        while sum(taken) < limit:
            began = time.perf_counter()
            work()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 10]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
