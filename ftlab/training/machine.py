"""Where a run was measured: device, packages and threads, and what else slowed the machine down.

A busy neighbour alone is no disturbance, and a quiet page beside a run may be one: what counts is
the time that it cost. A training is held against its own quiet steps, against what the same step
took on this machine before, and against the time that its threads waited for a core.

A run beside which something works all the time has no quiet step of its own. So the rate of every
run beside which nothing is known to have worked is kept with the machine's device locks, and later
runs of the same step are held against it. It counts while the machine is up: a restarted one may be
another. A machine that has become slower for good is known as such after three runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ftlab.basics import nvml
from ftlab.basics.devices import cpu_count
from ftlab.basics.files import locks_folder, read_plain
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.processes import boot_id
from ftlab.basics.system import load_average, read_proc
from ftlab.models.libraries import cpu_settings, gpu_settings
from ftlab.models.loading import capability_of
from ftlab.records.run import write_atomically
from ftlab.records.spec import RunSpec
from ftlab.training.meters import device_uuid

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
)  # fmt: skip


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What two runs must share to be compared, as JSON."""
    load = load_average()
    return {
        "device": device_name(device),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": _versions(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cores": cpu_count(),
        "settings": cpu_settings(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": None if load is None else round(load, 2),
        **(_describe_card(device) if device.type == "cuda" else {}),
    }


def device_name(device: torch.device) -> str:
    """The card's or the processor's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    for line in (read_proc("cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def _describe_card(device: torch.device) -> dict[str, Any]:
    """What decides how a card computes, beside torch's own version; `None` is not known."""
    driver, capability = nvml.driver(), capability_of(device)
    return {
        "gpus_visible": torch.cuda.device_count(),
        "uuid": device_uuid(torch.cuda, device),
        "driver": None if driver is None else driver.version,
        "capability": None if capability is None else ".".join(map(str, capability)),
        "cudnn": torch.backends.cudnn.version(),
        "rocm": torch.version.hip,
        "gpu_settings": gpu_settings(),
    }


def _versions() -> dict[str, str]:
    """Of those that are installed: a GPU machine may lack what a run does not need."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


SLOWER = 1.10
"""A training that takes so many times as long as it should is disturbed."""

QUIET_LOAD = 0.05
"""Others' share of the cores up to which a machine counts as quiet. It was 0 on an idle one, and
7 % of two cores beside a process that wants 25 % of one."""

FEWEST_STEPS = 8  # to tell quiet steps from others
_SECONDS_BETWEEN_LOOKS = 0.5
_LEAST_SHARE = 5  # percent of a card's multiprocessors: a desktop takes less


@dataclass(frozen=True)
class Slowdown:
    """How many times as long the training took as it should have, and `by` what that is known."""

    times: float
    by: str


BY_ITSELF = "its own quiet steps say"
BY_OTHER_RUNS = "the same steps took here before"
BY_WAITING = "it would have without waiting for cores"


@dataclass(frozen=True)
class Disturbance:
    """What is recorded of a training's surroundings.

    `own` and `others` are shares of the cores that this process may use. `card` is what else went
    on on a GPU, in a sentence; "" where nothing did.
    """

    own: float
    others: float
    slowdowns: tuple[Slowdown, ...] = ()
    card: str = ""

    @property
    def worst(self) -> Slowdown | None:
        """The estimate that shows most; `None` where nothing could be estimated."""
        return max(self.slowdowns, key=lambda found: found.times, default=None)

    @property
    def is_disturbed(self) -> bool:
        return bool(self.card) or (self.worst is not None and self.worst.times > SLOWER)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing beside the training is known to have slowed it.

        It may have been slower than earlier ones all the same: then the machine is.
        """
        inside = [found.times for found in self.slowdowns if found.by != BY_OTHER_RUNS]
        return not self.card and self.others <= QUIET_LOAD and max(inside, default=1) <= SLOWER

    @property
    def sentence(self) -> str:
        """For the notes of a disturbed run; "" for one that is not."""
        if not self.is_disturbed:
            return ""
        parts = []
        if self.worst is not None and self.worst.times > SLOWER:
            parts.append(
                f"training took {self.worst.times:.2f} times as long as {self.worst.by} "
                f"(other processes used {self.others:.0%} of the cores)"
            )
        if self.card:
            parts.append(self.card)
        return f"Disturbed: {'; '.join(parts)}. Times are too long."


def slowdowns_of(
    seconds: Sequence[float],
    work: Sequence[int],
    waited: Sequence[float | None],
    kept_rate: float | None,
) -> tuple[Slowdown, ...]:
    """How much longer the steps took than they should have, by each estimate that can be made.

    Of each step: `seconds`, `work` (tokens with padding), and the seconds that the process's
    threads waited for a core (`None` where the kernel does not count). `kept_rate` is seconds a
    token of the same step on this machine before. The first step is left out.
    """
    seconds, work, waited = seconds[1:], work[1:], waited[1:]
    if not seconds:
        return ()
    total = sum(seconds)
    found: list[Slowdown] = []
    if len(seconds) >= FEWEST_STEPS:
        found.append(Slowdown(total / _as_quiet(seconds, work), BY_ITSELF))
    if kept_rate is not None:
        found.append(Slowdown(total / (kept_rate * sum(work)), BY_OTHER_RUNS))
    known = [value for value in waited if value is not None]
    if len(known) == len(seconds):
        computed = total - min(sum(known), 0.9 * total)
        found.append(Slowdown(total / computed, BY_WAITING))
    return tuple(found)


def _as_quiet(seconds: Sequence[float], work: Sequence[int]) -> float:
    """What all steps would have taken had each been as quick as the quieter half of them.

    A line through the steps, seconds against work, fitted once more to the half that lies lowest.
    Undisturbed steps differ too, so as much as that half scatters is added: by itself it would call
    an idle machine's noise of 8 % a slowdown of 7 %.
    """
    y, x = np.asarray(seconds, dtype=float), np.asarray(work, dtype=float)
    design = np.stack([np.ones_like(x), x], axis=1)
    quiet = np.ones(len(y), dtype=bool)
    expected = y
    for _ in range(3):
        line, *_ = np.linalg.lstsq(design[quiet], y[quiet], rcond=None)
        expected = design @ line
        quiet = y - expected <= np.median(y - expected)
    scatter = np.std((y - expected)[quiet])
    return float((np.maximum(expected, y.min()) + scatter).sum())


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


def waited_seconds() -> float | None:
    """Seconds that this process's threads were ready to run and had no core, so far.

    The longest of any thread: those of one product wait for each other. `None` where the kernel
    does not count (Linux does, in /proc/PID/task/TID/schedstat).
    """
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return None
    longest: float | None = None
    for thread in threads:
        words = (read_proc(f"self/task/{thread}/schedstat") or "").split()
        if len(words) == 3:
            longest = max(longest or 0.0, int(words[1]) / 1e9)
    return longest


def since(before: float | None, now: float | None) -> float | None:
    """What was added; `None` where either is not known."""
    return None if before is None or now is None else max(0.0, now - before)


class CardWatch:
    """Looks between the steps at what else a GPU does; of other devices there is nothing to see."""

    def __init__(
        self, uuid: str, driver: Any = nvml, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._uuid, self._driver, self._clock = uuid, driver, clock
        self._others: set[int] = set()
        self._slowed = ""
        self._looks = self._slowed_looks = 0
        # From now on: what was computed on the card before does not disturb this run.
        self._seen = driver.computing(uuid)[1] if uuid else 0
        self._last = clock()

    @classmethod
    def of(cls, device: torch.device) -> CardWatch:
        return cls(device_uuid(torch.cuda, device) if device.type == "cuda" else "")

    def look(self) -> None:
        """Twice a second at most, so that it may be called after every step."""
        if not self._uuid or self._clock() - self._last < _SECONDS_BETWEEN_LOOKS:
            return
        self._last = self._clock()
        self._looks += 1
        busy, self._seen = self._driver.computing(self._uuid, self._seen)
        self._others |= _without_own(busy)
        why = self._driver.why_slowed(self._uuid)
        if why:
            self._slowed, self._slowed_looks = why, self._slowed_looks + 1

    @property
    def sentence(self) -> str:
        """What was seen, without a full stop; "" for nothing."""
        parts = []
        if self._others:
            count = len(self._others)
            who = ", ".join(map(str, sorted(self._others)[:3]))
            parts.append(
                f"{count} other process{'es' if count > 1 else ''} computed on the card "
                f"({who}{', …' if count > 3 else ''})"
            )
        if self._slowed:
            share = self._slowed_looks / self._looks
            parts.append(
                f"the card lowered its clocks in {share:.0%} of the looks at it because "
                f"{self._slowed}"
            )
        return "; ".join(parts)


def _without_own(busy: dict[int, int]) -> set[int]:
    """Those that took a share worth speaking of, but for this process.

    A container may know it by another number; then the busiest is taken for it.
    """
    own = os.getpid()
    if busy and own not in busy:
        own = max(busy, key=lambda pid: busy[pid])
    return {pid for pid, share in busy.items() if pid != own and share >= _LEAST_SHARE}


def _busy_seconds() -> float:
    """Busy time of the cores that this process may use, whoever used them."""
    allowed = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    cores = psutil.cpu_times(percpu=True)
    chosen = cores if allowed is None else [cores[i] for i in allowed if i < len(cores)]
    return sum(_busy(times) for times in chosen)


def _busy(times: Any) -> float:
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0))  # user time holds guest time


MOST_STEPS = 500
"""Different steps that are remembered, the latest."""

RATES_OF_A_STEP = 5
_MOST_BYTES = 1 << 20
_FACTS = ("device", "uuid", "threads", "packages", "model_hash", "data_hash", "attention")


class KeptRates:
    """Seconds a token, padding counted, by step. What cannot be read is not known."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = locks_folder() / "step-rates.json" if file is None else file

    def rate(self, step: str) -> float | None:
        """The middle one of the last rates of that step; `None` where there is none."""
        rates = self._read().get(step, [])
        return statistics.median(rates) if rates else None

    def keep(self, step: str, rate: float) -> None:
        """Adds a rate; a folder that cannot be written remembers nothing."""
        try:
            with holding(FileLock(self._file.with_suffix(".lock"))):
                known = self._read()
                rates = [*known.pop(step, []), rate][-RATES_OF_A_STEP:]
                latest = list(known.items())[-(MOST_STEPS - 1) :]
                write_atomically(self._file, json.dumps(dict([*latest, (step, rates)])).encode())
        except OSError:
            return

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(read_plain(self._file, _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {step: rates for step, rates in found.items() if _are_rates(rates)}


def same_step(spec: RunSpec, environment: Mapping[str, Any]) -> str:
    """A name that only runs share whose steps take equally long on this machine.

    Seed and number of steps are not in it: they choose among the same examples.
    """
    settings = spec.settings
    facts = {
        "boot": boot_id(),
        "variant": None if spec.variant is None else [
            spec.variant.method, sorted(spec.variant.hyperparameters.items()), spec.base_precision,
        ],
        "batch": [settings.batch_size, settings.accumulation, settings.max_length],
        "optimizer": [settings.optimizer, settings.gradient_checkpointing],
        "policy": spec.dtype_policy,
        **{name: environment.get(name) for name in _FACTS},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _are_rates(rates: Any) -> bool:
    return isinstance(rates, list) and all(isinstance(x, float) and 0 < x < 1e6 for x in rates)
