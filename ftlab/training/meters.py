"""What a phase of a run costs: time, memory, and whether the machine was busy with other things."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from ftlab.devices import cpu_count
from ftlab.runs.result import Phase, PhaseMeasure


@dataclass(frozen=True)
class PeakReading:
    """Bytes; `None` is not measurable here."""

    peak: int | None
    reserved: int | None = None
    process: int | None = None


class MemoryMeter(Protocol):
    """Reads the highest memory use since `start`."""

    kind: str

    def start(self) -> int | None:
        """Frees what can be freed, resets the peak, and returns the bytes in use now."""

    def read(self) -> PeakReading: ...

    def now(self) -> int | None:
        """Bytes in use at this moment."""

    def peak(self) -> int | None:
        """The peak so far; unlike `read` it waits for nothing."""


class CpuMemoryMeter:
    """Resident size of this process and its high-water mark, as the kernel keeps them.

    `VmHWM` is reset by writing 5 to `clear_refs` (proc(5)). Where there is no /proc the reading is
    `None`: the mark cannot be reset elsewhere, and a peak that holds earlier phases is no measure.
    """

    kind = "CPU resident"

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._resettable = True

    def start(self) -> int | None:
        gc.collect()
        _return_freed_memory()
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError:
            self._resettable = False
        return self.now()

    def now(self) -> int | None:
        return self._status_bytes("VmRSS")

    def peak(self) -> int | None:
        return self._status_bytes("VmHWM") if self._resettable else None

    def read(self) -> PeakReading:
        return PeakReading(self.peak())

    def _status_bytes(self, key: str) -> int | None:
        try:
            lines = (self._proc / "status").read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        return None


class CudaMemoryMeter:
    """Bytes allocated and reserved by torch on one GPU, and NVML's figure for this process.

    The cache is emptied before the peak is reset, or a phase's reserved peak would hold what the
    phase before it had reserved. `cuda` is torch.cuda, or a fake in tests.
    """

    kind = "CUDA allocated"

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda

    def start(self) -> int | None:
        gc.collect()
        self._cuda.synchronize(self._device)
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)
        return self.now()

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


def memory_meter(device: torch.device) -> MemoryMeter:
    return CudaMemoryMeter(device) if device.type == "cuda" else CpuMemoryMeter()


def nvml_process_bytes(cuda: Any, device: torch.device) -> int | None:
    """What the driver counts for this process now, context included; often not to be had."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
    except Exception:  # MIG, WDDM, containers and old drivers each refuse in their own way
        return None
    return None


def _return_freed_memory() -> None:
    """Makes glibc give back what was freed, so that one phase does not count for the next."""
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
    _parts: list[PeakReading] = field(default_factory=list)  # of this phase, up to each pause
    _paused_seconds: float = 0.0
    _left_behind: int = 0  # bytes that pauses have left in use

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Times the block and takes its memory peak, also when it raises."""
        self.current = phase
        self.report({"event": "phase", "phase": phase})
        self._parts, self._paused_seconds, self._left_behind = [], 0.0, 0
        start_bytes = self.memory.start()
        began = time.perf_counter()
        try:
            yield
        finally:
            reading = self._reading()
            parts = [*self._parts, reading]
            self.phases[phase] = PhaseMeasure(
                seconds=time.perf_counter() - began - self._paused_seconds,
                start_bytes=start_bytes,
                peak_bytes=_highest(part.peak for part in parts),
                reserved_bytes=_highest(part.reserved for part in parts),
                process_bytes=reading.process,
            )

    @property
    def peak_so_far(self) -> int | None:
        """Bytes of the phase up to the last pause; `None` where there was none, or no measure."""
        return _highest(part.peak for part in self._parts) if self._parts else None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keeps the block out of the phase that is being measured: its time and its memory.

        What the block leaves in use (buffers that a library keeps for shapes it has met, say) is
        taken off the peaks that come after it.
        """
        began = time.perf_counter()
        self._parts.append(self._reading())
        before = self.memory.start()
        try:
            yield
        finally:
            after = self.memory.start()
            if before is not None and after is not None:
                self._left_behind += max(0, after - before)
            self._paused_seconds += time.perf_counter() - began

    def _reading(self) -> PeakReading:
        """The reading without what pauses have left behind."""
        reading = self.memory.read()
        return PeakReading(
            None if reading.peak is None else reading.peak - self._left_behind,
            None if reading.reserved is None else reading.reserved - self._left_behind,
            reading.process,
        )


def _highest(values: Iterable[int | None]) -> int | None:
    """`None` unless every value is known: a peak of some parts is no peak of the whole."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return max(numbers) if len(numbers) == len(known) else None


DISTURBED_ABOVE = 0.15
"""Share of the machine's cores that others may use during training before a run is marked."""


class LoadMeter:
    """How busy the machine was with other things while this process worked."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._own = time.process_time()
        self._all = _busy_seconds()

    def read(self) -> tuple[float, float]:
        """`(own, others)`: shares of the cores it may use, of this process and of others."""
        wall = (time.perf_counter() - self._wall) * cpu_count()
        own = time.process_time() - self._own
        busy = _busy_seconds() - self._all
        return own / wall, max(0.0, busy - own) / wall


def _busy_seconds() -> float:
    """Busy time of the cores that this process may use, whoever used them."""
    allowed = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    cores = psutil.cpu_times(percpu=True)
    chosen = cores if allowed is None else [cores[i] for i in allowed if i < len(cores)]
    return sum(_busy(times) for times in chosen)


def _busy(times: Any) -> float:
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0))  # user time holds guest time
