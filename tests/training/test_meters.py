"""Memory, time and load meters; the CUDA one on a fake that keeps torch.cuda's promises."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ftlab.training.meters import CpuMemoryMeter, CudaMemoryMeter, LoadMeter, PhaseMeter

MEGABYTE = 1_000_000


def test_the_cpu_meter_sees_a_peak_that_is_gone_again() -> None:
    meter = CpuMemoryMeter()
    start = meter.start()
    assert start is not None
    block = bytearray(200 * MEGABYTE)
    block[::4096] = b"x" * len(block[::4096])
    del block
    peak = meter.read().peak
    assert peak is not None
    assert 190 * MEGABYTE < peak - start < 260 * MEGABYTE


def test_a_phase_does_not_inherit_the_peak_of_the_one_before() -> None:
    meter = CpuMemoryMeter()
    meter.start()
    block = bytearray(200 * MEGABYTE)
    block[::4096] = b"x" * len(block[::4096])
    del block
    start = meter.start()
    peak = meter.read().peak
    assert peak is not None
    assert start is not None
    assert peak - start < 50 * MEGABYTE


def test_where_there_is_no_proc_the_peak_is_a_dash(tmp_path: Path) -> None:
    meter = CpuMemoryMeter(proc=tmp_path / "nothing")
    assert meter.start() is None
    assert meter.read().peak is None


class FakeCuda:
    """A GPU of which the caching allocator alone is simulated."""

    def __init__(self) -> None:
        self.allocated = self.reserved = 100
        self.peak_allocated = self.peak_reserved = 100
        self.calls: list[str] = []

    def use(self, size: int) -> None:
        self.peak_allocated = max(self.peak_allocated, self.allocated + size)
        self.reserved = max(self.reserved, self.allocated + size)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def synchronize(self, device: torch.device) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")
        self.reserved = self.allocated

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.calls.append("reset")
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def memory_allocated(self, device: torch.device) -> int:
        return self.allocated

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak_allocated

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.peak_reserved

    def get_device_properties(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid="0000")


def test_the_cuda_meter_empties_the_cache_before_it_resets_the_peak() -> None:
    cuda = FakeCuda()
    meter = CudaMemoryMeter(torch.device("cuda", 0), cuda)
    cuda.use(900)
    assert meter.start() == 100
    assert meter.now() == 100
    assert cuda.calls == ["synchronize", "empty_cache", "reset"]
    cuda.use(50)
    reading = meter.read()
    assert (reading.peak, reading.reserved) == (150, 150)
    assert reading.process is None


def test_phases_are_timed_and_reported_also_when_they_fail() -> None:
    events: list[dict] = []
    meter = PhaseMeter(CpuMemoryMeter(), events.append)
    with meter.measure("load"):
        time.sleep(0.05)
    with pytest.raises(ZeroDivisionError), meter.measure("train"):
        raise ZeroDivisionError
    assert [event["phase"] for event in events] == ["load", "train"]
    assert meter.phases["load"].seconds >= 0.05
    assert "train" in meter.phases


def test_the_load_meter_counts_this_process_as_its_own() -> None:
    meter = LoadMeter()
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        pass
    own, others = meter.read()
    assert own > 0.02
    assert others >= 0
