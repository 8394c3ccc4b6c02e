"""Memory, time and load meters; the CUDA one on a fake that keeps torch.cuda's promises."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ftlab.records.result import PhaseMeasure
from ftlab.training.machine import LoadMeter
from ftlab.training.meters import CpuMemoryMeter, CudaMemoryMeter, MpsMemoryMeter, PhaseMeter

MEGABYTE = 1_000_000


def use_memory() -> None:
    """Uses 200 MB for a moment."""
    block = bytearray(200 * MEGABYTE)
    block[::4096] = b"x" * len(block[::4096])


def test_the_cpu_meter_sees_a_peak_that_is_gone_again_until_the_next_start() -> None:
    meter = CpuMemoryMeter()
    start = meter.start() or 0
    use_memory()
    assert 190 * MEGABYTE < (meter.read().peak or 0) - start < 260 * MEGABYTE
    start = meter.start() or 0
    assert (meter.read().peak or 0) - start < 50 * MEGABYTE
    assert start > 0


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
        self.fault = ""

    def use(self, size: int) -> None:
        self.peak_allocated = max(self.peak_allocated, self.allocated + size)
        self.reserved = max(self.reserved, self.allocated + size)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def synchronize(self, device: torch.device) -> None:
        self.calls.append("synchronize")
        if self.fault:
            raise RuntimeError(self.fault)

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")
        self.reserved = self.allocated

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.calls.append("reset")
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def memory_allocated(self, device: torch.device) -> int:
        return self.allocated

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak_allocated

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.peak_reserved

    def get_device_properties(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid="0000")


def on_cuda() -> tuple[FakeCuda, PhaseMeter]:
    cuda = FakeCuda()
    meter = PhaseMeter(CudaMemoryMeter(torch.device("cuda", 0), cuda), lambda event: None)
    return cuda, meter


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
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), meter.measure("train"):
        raise ZeroDivisionError
    assert [event["phase"] for event in events] == ["load", "train"]
    assert meter.phases["load"].seconds >= 0.01
    assert "train" in meter.phases


def measured_with_pause(meter: PhaseMeter, pause: Callable[[], None]) -> PhaseMeasure:
    with meter.measure("train"), meter.pause():
        pause()
    return meter.phases["train"]


def test_what_a_pause_takes_for_a_while_is_not_the_phases_peak() -> None:
    def evaluate() -> None:
        use_memory()
        time.sleep(1)

    phase = measured_with_pause(PhaseMeter(CpuMemoryMeter(), lambda event: None), evaluate)
    assert phase.peak_bytes is not None
    assert phase.start_bytes is not None
    assert phase.peak_bytes - phase.start_bytes < 50 * MEGABYTE
    assert phase.seconds < 1


def test_what_a_pause_leaves_in_use_is_taken_off_and_what_came_before_it_is_kept() -> None:
    cuda, meter = on_cuda()
    with meter.measure("train"):
        cuda.use(400)
        with meter.pause():
            cuda.use(5000)
            cuda.allocated += 70
        cuda.use(450)
    assert meter.phases["train"].peak_bytes == 550
    with meter.measure("save"):
        cuda.use(10)
    assert meter.phases["save"].peak_bytes == 180, "a later phase begins anew"


@pytest.mark.parametrize(
    ("uses", "peak"), [([400, 900], 1000), ([400, 300], 500), ([400, 400, 400], 500)]
)
def test_the_peak_is_that_of_the_steps_before_between_and_after_pauses(
    uses: list[int], peak: int
) -> None:
    cuda, meter = on_cuda()
    with meter.measure("train"):
        cuda.calls.clear()
        for number, use in enumerate(uses):
            if number:
                with meter.pause():
                    cuda.use(5000)
            cuda.use(use)
        assert "empty_cache" not in cuda.calls, "the next step would request its memory again"
    phase = meter.phases["train"]
    assert (phase.peak_bytes, phase.reserved_bytes) == (peak, peak)


def test_a_phase_that_fails_in_a_pause_keeps_the_peak_so_far() -> None:
    def fail() -> None:
        cuda.use(5000)
        raise ZeroDivisionError

    cuda, meter = on_cuda()
    cuda.use(400)
    with pytest.raises(ZeroDivisionError):
        measured_with_pause(meter, fail)
    assert meter.phases["train"].peak_bytes == 100


def test_a_device_whose_kernel_failed_keeps_the_error_of_the_step() -> None:
    cuda, meter = on_cuda()

    def step() -> None:
        cuda.fault = "CUDA error: an illegal memory access was encountered"
        raise RuntimeError(cuda.fault)

    with pytest.raises(RuntimeError, match="illegal memory access"), meter.measure("train"):
        step()
    assert meter.phases["train"].peak_bytes is None
    with pytest.raises(RuntimeError, match="illegal memory access"), meter.measure("save"):
        pytest.fail("a phase cannot begin on it")


def test_an_apple_gpu_has_the_highest_of_what_was_seen() -> None:
    mps = SimpleNamespace(
        allocated=100, handed_out=200, synchronize=lambda: None, empty_cache=lambda: None
    )
    mps.current_allocated_memory = lambda: mps.allocated
    mps.driver_allocated_memory = lambda: mps.handed_out
    meter = MpsMemoryMeter(mps)
    assert meter.start() == 100
    mps.allocated, mps.handed_out = 700, 900
    assert meter.now() == 700
    mps.allocated = 300
    reading = meter.read()
    assert (reading.peak, reading.reserved) == (700, 900)
    assert meter.restart().peak == 300


def test_the_load_meter_counts_this_process_as_its_own() -> None:
    meter = LoadMeter()
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until:
        pass
    own, others = meter.read()
    assert own > 0.02
    assert others >= 0
