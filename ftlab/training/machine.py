"""The machine of a run: device, packages, threads, and slowdowns caused by other processes.

Only the time that another process cost is a disturbance. The training time is compared with the
quiet steps of the same run, earlier runs of the same step on this machine, and the time that its
threads waited for a core. For a process that works during a whole run, the rate of every quiet run
is stored beside the device locks until the next reboot, after which the machine may be another one.
A machine that became permanently slower is recognised after three runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ftlab.basics import nvml
from ftlab.basics.devices import cpu_count, work_of_others
from ftlab.basics.files import locks_folder, read_plain
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.processes import boot_id
from ftlab.basics.system import core_waits, load_average, read_proc
from ftlab.models.libraries import cpu_settings, gpu_settings, installed_versions
from ftlab.models.loading import capability_of
from ftlab.records.run import write_atomically
from ftlab.records.spec import RunSpec
from ftlab.training.meters import device_uuid

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
)  # fmt: skip


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Returns what two runs must have in common to be comparable, as JSON."""
    load = load_average()
    return {
        "device": device_name(device),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": installed_versions(PACKAGES),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cores": cpu_count(),
        "settings": cpu_settings(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": None if load is None else round(load, 2),
        **(_describe_card(device) if device.type == "cuda" else {}),
    }


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    for line in (read_proc("cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def _describe_card(device: torch.device) -> dict[str, Any]:
    """Returns what affects a card's results besides torch's version; `None` is unknown."""
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


SLOWER = 1.10
"""A training that takes more than this many times its expected time is disturbed."""

QUIET_LOAD = 0.05
"""A machine is quiet if other processes use at most this share of the cores. It was 0 on an idle
machine, and 7 % of two cores beside a process that uses 25 % of one."""

MOST_SLEPT = 0.1
"""A training is disturbed if threads slept in a larger share of its steps, which take up to 1.6
times as long."""

FEWEST_STEPS = 8  # to distinguish quiet steps from others
_SECONDS_BETWEEN_LOOKS = 0.5
_LEAST_SHARE = 5  # percent of a card's multiprocessors: a desktop uses less


@dataclass(frozen=True)
class Slowdown:
    """The training took `times` its expected time; `by` names the reference."""

    times: float
    by: str


BY_ITSELF = "its own quiet steps say"
BY_OTHER_RUNS = "the same steps took here before"
BY_WAITING = "it would have without waiting for cores"


@dataclass(frozen=True)
class Disturbance:
    """What disturbed a training, as recorded in its result.

    `own` and `others` are shares of the cores that this process may use. `card` is a sentence about
    other work on the GPU; "" if there was none. `slept` is the share of the steps in which threads
    slept between operators to leave the cores to others (`ftlab.models.openmp`).
    """

    own: float
    others: float
    slowdowns: tuple[Slowdown, ...] = ()
    card: str = ""
    slept: float = 0.0

    @property
    def worst(self) -> Slowdown | None:
        """The largest estimate; `None` if nothing could be estimated."""
        return max(self.slowdowns, key=lambda found: found.times, default=None)

    @property
    def is_disturbed(self) -> bool:
        is_slower = self.worst is not None and self.worst.times > SLOWER
        return bool(self.card) or is_slower or self.slept > MOST_SLEPT

    @property
    def is_quiet(self) -> bool:
        """Whether nothing besides the training slowed it; the machine itself may be slower."""
        inside = [found.times for found in self.slowdowns if found.by != BY_OTHER_RUNS]
        is_alone = not self.card and not self.slept and self.others <= QUIET_LOAD
        return is_alone and max(inside, default=1) <= SLOWER

    @property
    def sentence(self) -> str:
        """The sentence for the notes of a disturbed run, else ""."""
        if not self.is_disturbed:
            return ""
        parts = []
        if self.worst is not None and self.worst.times > SLOWER:
            parts.append(
                f"training took {self.worst.times:.2f} times as long as {self.worst.by} "
                f"(other processes used {self.others:.0%} of the cores)"
            )
        if self.slept > MOST_SLEPT:
            parts.append(f"in {self.slept:.0%} of the steps threads left the cores to others")
        if self.card:
            parts.append(self.card)
        return f"Times are too long: {'; '.join(parts)}."


def slowdowns_of(
    seconds: Sequence[float],
    work: Sequence[int],
    waited: Sequence[float | None],
    kept_rate: float | None,
) -> tuple[Slowdown, ...]:
    """Returns how much slower the steps were than expected, by each available reference.

    Per step: `seconds`, `work` (tokens with padding), and `waited`, the seconds that the process's
    threads waited for a core (`None` if the kernel does not count them). `kept_rate` is the earlier
    rate of the same step on this machine, in seconds per token. The first step is ignored.
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
    """Returns the expected seconds of all steps if each were as fast as the faster half.

    Fits a line of seconds against work to the steps, and again to the half that lies lowest.
    The standard deviation of that half is added, because undisturbed steps vary too: without it,
    the noise of 8 % on an idle machine would count as a slowdown of 7 %.
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
    """Measures how much other processes used the cores while this process worked."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._own = time.process_time()
        self._others = work_of_others()

    def read(self) -> tuple[float, float]:
        """Returns `(own, others)`: shares of the allowed cores used by this process and others."""
        wall = (time.perf_counter() - self._wall) * cpu_count()
        own = time.process_time() - self._own
        return own / wall, max(0.0, work_of_others() - self._others) / wall


def waited_seconds() -> float | None:
    """Returns the seconds so far that threads of this process waited for a free core.

    This is the maximum over the threads, because the threads of one matrix product wait for each
    other. `None` if the kernel does not count it.
    """
    return max(core_waits() or (), default=None)


def since(before: float | None, now: float | None) -> float | None:
    """Returns the increase; `None` if either value is unknown."""
    return None if before is None or now is None else max(0.0, now - before)


class CardWatch:
    """Checks between the steps what else a GPU does; does nothing on other devices."""

    def __init__(
        self, uuid: str, driver: Any = nvml, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._uuid, self._driver, self._clock = uuid, driver, clock
        self._others: set[int] = set()
        self._slowed = ""
        self._looks = self._slowed_looks = 0
        # Ignores what was computed on the card before this run.
        self._seen = driver.computing(uuid)[1] if uuid else 0
        self._last = clock()

    @classmethod
    def of(cls, device: torch.device) -> CardWatch:
        return cls(device_uuid(torch.cuda, device) if device.type == "cuda" else "")

    def look(self) -> None:
        """Checks at most twice a second, so that it can be called after every step."""
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
        """What was observed, without a full stop; "" if nothing was."""
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
                f"the card lowered its clocks in {share:.0%} of the checks because {self._slowed}"
            )
        return "; ".join(parts)


def _without_own(busy: dict[int, int]) -> set[int]:
    """Returns the others with a relevant share; in a container the busiest is assumed to be us."""
    own = os.getpid()
    if busy and own not in busy:
        own = max(busy, key=lambda pid: busy[pid])
    return {pid for pid, share in busy.items() if pid != own and share >= _LEAST_SHARE}


MOST_STEPS = 500
"""How many different steps are stored; the oldest are dropped."""

RATES_OF_A_STEP = 5
_MOST_BYTES = 1 << 20
_FACTS = (
    "device", "uuid", "threads", "packages", "settings", "model_hash", "data_hash", "attention",
)  # fmt: skip


class KeptRates:
    """Stored rates by step, in seconds per token with padding; an unreadable file is empty."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = locks_folder() / "step-rates.json" if file is None else file

    def rate(self, step: str) -> float | None:
        """Returns the median of the step's last rates; `None` if there are none."""
        rates = self._read().get(step, [])
        return statistics.median(rates) if rates else None

    def keep(self, step: str, rate: float) -> None:
        """Adds a rate; does nothing if the folder cannot be written."""
        with suppress(OSError), holding(FileLock(self._file.with_suffix(".lock"))):
            known = self._read()
            rates = [*known.pop(step, []), rate][-RATES_OF_A_STEP:]
            latest = list(known.items())[-(MOST_STEPS - 1) :]
            write_atomically(self._file, json.dumps(dict([*latest, (step, rates)])).encode())

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(read_plain(self._file, _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {step: rates for step, rates in found.items() if _are_rates(rates)}


def same_step(spec: RunSpec, environment: Mapping[str, Any]) -> str:
    """Returns a key of steps that take equally long here, whatever their seed and number."""
    settings = spec.settings
    facts = {
        "boot": boot_id(),
        "variant": None if spec.variant is None else [
            spec.variant.method, sorted(spec.variant.hyperparameters.items()), spec.base_precision,
        ],
        "batch": [settings.batch_size, settings.accumulation, settings.max_length],
        "optimizer": [settings.optimizer, settings.gradient_checkpointing],
        "policy": spec.dtype_policy,
        **({"shard": settings.shard} if settings.shard > 1 else {}),
        **{name: environment.get(name) for name in _FACTS},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _are_rates(rates: Any) -> bool:
    return isinstance(rates, list) and all(isinstance(x, float) and 0 < x < 1e6 for x in rates)
