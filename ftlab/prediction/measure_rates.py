"""Measures the rates of a device in about a second, and keeps them (`machine_rates`).

Run as: python -m ftlab.prediction.measure_rates DEVICE

The caller holds the lock of the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from ftlab.basics.devices import cpu_count, resolve_device
from ftlab.models.libraries import prepare_for_libraries
from ftlab.models.loading import use_kernels
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import keep_rates
from ftlab.prediction.simulation.work import WorkLog

_SECONDS = 0.15  # for each rate, after as long for warming up
_ON_CPU, _ON_GPU = (288, 576, 1536), (4_096, 4_096, 4_096)
"""Rows, inner and columns of a product: on a CPU those of the bundled model's MLP."""

_LAYERS, _WIDTH = 20, 8
"""So small that only the calls take time, with what autograd and modules add to each."""


def main(arguments: list[str]) -> int:
    device = resolve_device(arguments[0])
    prepare_for_libraries(device.id)
    keep_rates(device, measure(torch.device("cuda" if device.is_cuda else device.id)))
    return 0


def measure(device: torch.device) -> Rates:
    """The rates of products, memory and calls."""
    torch.set_num_threads(cpu_count())  # as a run does
    use_kernels(device)
    is_gpu = device.type != "cpu"
    rows, inner, columns = _ON_GPU if is_gpu else _ON_CPU
    operations = 2 * rows * inner * columns
    narrow_type = torch.bfloat16

    def product(dtype: torch.dtype) -> float:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(inner, columns, device=device).to(dtype)
        return operations / _seconds(lambda: torch.mm(left, right), device)

    numbers = torch.randn(rows, columns, device=device).to(narrow_type)
    added = _seconds(lambda: numbers + numbers, device)
    small = _small_layers().to(device)
    inputs = torch.ones(4, _WIDTH, device=device)

    def step() -> None:
        small(inputs).sum().backward()

    with WorkLog() as log:
        step()
    calls = log.take().calls

    return Rates(
        narrow=product(narrow_type),
        wide=product(torch.float32),
        bytes=3 * numbers.numel() * numbers.element_size() / added,
        call_seconds=_seconds(step, device) / calls,
        overlaps=is_gpu,
    )


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
