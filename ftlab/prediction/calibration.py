"""How far measured peaks lay from predicted ones on a device, and what is shown for that reason.

On a GPU torch counts the very bytes that are predicted. On a CPU the process is measured, which
takes more than what lives in it: malloc's own room, what oneDNN packs, what loading left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftlab.devices import Device, kind_of
from ftlab.runs.store import Run

FEWEST_OF_METHOD = 3
FEWEST = 5
"""Runs that a band is drawn from: of the same method, else of any."""

_LEFT_OUT = 0.05  # of the runs at either end


@dataclass(frozen=True)
class Band:
    """Measured peaks are `low` to `high` times what was predicted, in `runs` runs of `whose`.

    No run: a band to start with, from other machines.
    """

    low: float
    high: float
    runs: int = 0
    whose: str = ""

    def of(self, predicted_bytes: int) -> tuple[int, int]:
        """What a run is expected to take, least and most."""
        return round(self.low * predicted_bytes), round(self.high * predicted_bytes)


ON_CUDA = Band(0.95, 1.05)
"""Published reserved peaks lie within 5 % of their predictions, nearly all (docs/prediction.md)."""

ON_CPU = Band(1.1, 1.4)
"""Of the shipped sweep of 12 methods 11 lie between 1.15 and 1.36 (docs/prediction.md)."""


@dataclass(frozen=True)
class Seen:
    """Net peak memory of a run, as it was predicted and as it was measured."""

    method: str
    label: str
    predicted_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        return self.measured_bytes / self.predicted_bytes


@dataclass(frozen=True)
class Calibration:
    """What was predicted and measured on one device; without enough of it, `start` is the band."""

    seen: tuple[Seen, ...]
    start: Band

    def band(self, method: str) -> Band:
        """The narrowest that enough runs stand behind: of the method, of all, else the start's."""
        own = [run.ratio for run in self.seen if run.method == method]
        return self.whole() if len(own) < FEWEST_OF_METHOD else _band(own, "this method")

    def whole(self) -> Band:
        """The band of any method."""
        every = [run.ratio for run in self.seen]
        return _band(every, "all methods") if len(every) >= FEWEST else self.start


def calibration(runs: Iterable[Run], device: Device) -> Calibration:
    """From the runs that were measured here, on the device or one that is equal."""
    seen = [
        Seen(run.spec.variant.method, run.spec.label, predicted, measured)
        for run in runs
        if run.origin == "measured" and _is_on(run, device)
        if run.spec.variant is not None and run.status == "done" and run.result is not None
        if (measured := run.result.measures.net_peak_memory_bytes) is not None
        if (predicted := run.result.measures.predicted_net_peak_bytes)
    ]
    return Calibration(tuple(seen), ON_CUDA if device.is_gpu else ON_CPU)


def _is_on(run: Run, device: Device) -> bool:
    if kind_of(run.spec.device) != kind_of(device.id):
        return False
    if not device.is_cuda or device.is_rocm:
        return run.spec.device == device.id
    return run.result is not None and run.result.environment.get("device") == device.label


def _band(ratios: Sequence[float], whose: str) -> Band:
    """From the 5th to the 95th of a hundred runs; of few runs from the least to the most."""
    ordered = sorted(ratios)
    out = math.floor(_LEFT_OUT * len(ordered))
    return Band(ordered[out], ordered[-1 - out], len(ordered), whose)
