"""Meters for the time and memory of each phase of a run."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ftlab.basics import nvml
from ftlab.basics.system import PROC, reset_peak_size, status_bytes
from ftlab.basics.torch_devices import card_uuid
from ftlab.records.result import Phase, PhaseMeasure


@dataclass(frozen=True)
class PeakReading:
    """Bytes; `None` if not measurable on this system."""

    peak: int | None
    reserved: int | None = None
    process: int | None = None


class MemoryMeter(Protocol):
    """Reads the peak memory use since `start` or `restart`."""

    kind: str

    def start(self) -> int | None:
        """Frees what can be freed, resets the peak, and returns the bytes in use now."""

    def restart(self) -> PeakReading:
        """Resets the peak without emptying the allocator's cache; returns the memory in use now."""

    def read(self) -> PeakReading: ...

    def now(self) -> int | None:
        """Bytes in use at this moment."""

    def peak(self) -> int | None:
        """The peak so far; unlike `read` it does not synchronise the device."""


class CpuMemoryMeter:
    """Resident size of this process and its high-water mark, from the kernel.

    `VmHWM` is reset by writing 5 to `clear_refs` (proc(5)). Without /proc the reading is `None`:
    other systems cannot reset the mark, so the peak would include earlier phases.
    """

    kind = "CPU resident"

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._resettable = True

    def start(self) -> int | None:
        gc.collect()
        _return_freed_memory()
        self._resettable = reset_peak_size(self._proc)
        return self.now()

    def restart(self) -> PeakReading:
        return PeakReading(self.start())

    def now(self) -> int | None:
        return status_bytes("VmRSS", proc=self._proc)

    def peak(self) -> int | None:
        return status_bytes("VmHWM", proc=self._proc) if self._resettable else None

    def read(self) -> PeakReading:
        return PeakReading(self.peak())


class CudaMemoryMeter:
    """Bytes allocated and reserved by torch on one GPU, and NVML's value for this process.

    `start` empties the cache before it resets the peak; otherwise the reserved peak of a phase
    would include memory reserved by the previous phase. `cuda` is torch.cuda, or a fake in tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda
        self.kind = "ROCm allocated" if torch.version.hip else "CUDA allocated"

    def start(self) -> int | None:
        gc.collect()
        self._cuda.synchronize(self._device)
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)
        return self.now()

    def restart(self) -> PeakReading:
        gc.collect()
        self._cuda.synchronize(self._device)
        self._cuda.reset_peak_memory_stats(self._device)
        return PeakReading(self.now(), int(self._cuda.memory_reserved(self._device)))

    def now(self) -> int | None:
        return int(self._cuda.memory_allocated(self._device))

    def peak(self) -> int | None:
        return int(self._cuda.max_memory_allocated(self._device))

    def read(self) -> PeakReading:
        self._cuda.synchronize(self._device)
        return PeakReading(
            peak=int(self._cuda.max_memory_allocated(self._device)),
            reserved=int(self._cuda.max_memory_reserved(self._device)),
            process=nvml_process_bytes(self._cuda, self._device),
        )


class MpsMemoryMeter:
    """Bytes on an Apple GPU; torch keeps no peak there, so this class keeps the highest reading.

    `read` and `now` are called at the end of every step. Memory that is allocated and freed within
    a step appears only in `reserved`, the driver's memory that torch caches.
    """

    kind = "MPS allocated"

    def __init__(self, mps: Any = torch.mps) -> None:
        self._mps = mps
        self._highest = self._most_reserved = 0

    def start(self) -> int | None:
        gc.collect()
        self._mps.synchronize()
        self._mps.empty_cache()
        return self.restart().peak

    def restart(self) -> PeakReading:
        self._highest = self._most_reserved = 0
        self._look()
        return PeakReading(self._highest, self._most_reserved)

    def now(self) -> int | None:
        self._look()
        return int(self._mps.current_allocated_memory())

    def peak(self) -> int | None:
        self._look()
        return self._highest

    def read(self) -> PeakReading:
        self._mps.synchronize()
        self._look()
        return PeakReading(self._highest, self._most_reserved)

    def _look(self) -> None:
        self._highest = max(self._highest, int(self._mps.current_allocated_memory()))
        self._most_reserved = max(self._most_reserved, int(self._mps.driver_allocated_memory()))


def memory_meter(device: torch.device) -> MemoryMeter:
    if device.type == "cuda":
        return CudaMemoryMeter(device)
    return MpsMemoryMeter() if device.type == "mps" else CpuMemoryMeter()


def nvml_process_bytes(cuda: Any, device: torch.device) -> int | None:
    """Returns the driver's bytes for this process, with the context; often not available."""
    uuid = device_uuid(cuda, device)
    own = (process for process in nvml.processes(uuid) if process.pid == os.getpid())
    return next((process.bytes for process in own if process.bytes), None)


def device_uuid(cuda: Any, device: torch.device) -> str:
    """Returns the card's UUID in NVML's format; "" if torch does not provide it.

    A worker sees only one card, selected by its UUID. For a MIG instance torch may return the UUID
    of the whole card.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shown.startswith(("GPU-", "MIG-")) and "," not in shown:
        return shown
    return card_uuid(cuda.get_device_properties(device))


def _return_freed_memory() -> None:
    """Makes glibc return freed memory, so that it does not count in the next phase."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


@dataclass
class PhaseMeter:
    """Measures the phases of a run one after another."""

    memory: MemoryMeter
    report: Callable[[dict[str, Any]], None]
    phases: dict[str, PhaseMeasure] = field(default_factory=dict)
    current: str = ""
    _parts: list[PeakReading] = field(default_factory=list)  # of this phase, one per pause
    _paused_seconds: float = 0.0
    _left_behind: PeakReading = PeakReading(0, 0)  # bytes left in use by pauses

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Measures time and memory peak of the block, also when it raises.

        After a kernel failure the device raises that error at every call. Then the peak is `None`,
        and the block's own error is propagated.
        """
        self.current = phase
        self.report({"event": "phase", "phase": phase})
        self._parts, self._paused_seconds, self._left_behind = [], 0.0, PeakReading(0, 0)
        start_bytes = self.memory.start()
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            try:
                reading = self._reading()
            except Exception:  # the device may have failed; the phase's own error is raised below
                reading = PeakReading(None)
            self._keep(phase, began, start_bytes, reading)
            raise
        self._keep(phase, began, start_bytes, self._reading())

    @property
    def peak_so_far(self) -> int | None:
        """The peak of the phase up to the last pause; `None` without a pause or a reading."""
        return _highest(part.peak for part in self._parts) if self._parts else None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time and memory of the block from the current phase.

        Memory that the block leaves in use (buffers that a library keeps per shape, for example) is
        subtracted from later peaks. The GPU cache is not emptied: otherwise the next timed step
        would have to request all of its memory from the driver again.
        """
        began = time.perf_counter()
        self._parts.append(self._reading())
        before = self.memory.restart()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # after a device failure; the next step raises it
                after = self.memory.restart()
                self._left_behind = PeakReading(
                    _added(self._left_behind.peak, before.peak, after.peak),
                    _added(self._left_behind.reserved, before.reserved, after.reserved),
                )
            self._paused_seconds += time.perf_counter() - began

    def _keep(
        self, phase: Phase, began: float, start_bytes: int | None, reading: PeakReading
    ) -> None:
        parts = [*self._parts, reading]
        self.phases[phase] = PhaseMeasure(
            seconds=time.perf_counter() - began - self._paused_seconds,
            start_bytes=start_bytes,
            peak_bytes=_highest(part.peak for part in parts),
            reserved_bytes=_highest(part.reserved for part in parts),
            process_bytes=reading.process,
        )

    def _reading(self) -> PeakReading:
        """Returns the reading without memory left by pauses; `reserved` is at least the peak."""
        reading, left = self.memory.read(), self._left_behind
        peak = None if reading.peak is None else reading.peak - (left.peak or 0)
        reserved = None if reading.reserved is None else reading.reserved - (left.reserved or 0)
        if reserved is not None and peak is not None:
            reserved = max(reserved, peak)
        return PeakReading(peak, reserved, reading.process)


def _added(so_far: int | None, before: int | None, after: int | None) -> int:
    """Returns the bytes left in use after the last pause; an unknown increase counts as 0."""
    grown = 0 if before is None or after is None else max(0, after - before)
    return (so_far or 0) + grown


def _highest(values: Iterable[int | None]) -> int | None:
    """Returns the maximum; `None` if any value is unknown, as the maximum would be too low."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return max(numbers) if len(numbers) == len(known) else None
