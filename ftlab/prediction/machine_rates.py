"""The rates of this machine's devices: measured once in a process of their own, and kept. No torch.

Kept beside the device locks until the next reboot, after which the machine may be another one, and
for one version of torch and one number of threads. Nothing is measured while a run has the device.
Rates measured while other processes used the cores are used, and measured again later.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ftlab.basics.devices import Device, cpu_count
from ftlab.basics.files import locks_folder, read_plain
from ftlab.basics.locks import DeviceLock, FileLock, holding
from ftlab.basics.processes import boot_id, module_command, worker_environment
from ftlab.models.libraries import CPU_SETTINGS, cpu_settings
from ftlab.prediction.duration import Rates
from ftlab.records.run import write_atomically

MODULE = "ftlab.prediction.measure_rates"
SECONDS = 60
"""Timeout of the process: it imports torch, which takes seconds, and measures for about one."""

SECONDS_BETWEEN = 60
"""Between two measurements where the first was disturbed."""

_SECONDS_OF_A_LOOK = 0.1
_MOST_BYTES = 1 << 20
_MOST_KEPT = 20


def rates_file() -> Path:
    return locks_folder() / "device-rates.json"


def kept_rates(device: Device) -> Rates | None:
    """The measured rates of a device; `None` if it has none yet, or the file is unreadable."""
    found = _read().get(_key(device))
    if not isinstance(found, Mapping):
        return None
    try:
        rates = Rates(**found)
    except TypeError:
        return None
    values = (rates.narrow, rates.wide, rates.bytes, rates.call_seconds, rates.few_rows)
    sound = all(isinstance(v, float) and math.isfinite(v) and v > 0 for v in values)
    return rates if sound and _is_rate_or_none(rates.unpacked) else None


def _is_rate_or_none(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def keep_rates(device: Device, rates: Rates) -> None:
    """Keeps the rates; does nothing if the folder cannot be written."""
    file = rates_file()
    with suppress(OSError), holding(FileLock(file.with_suffix(".lock"))):
        latest = {k: v for k, v in _read().items() if k != _key(device)}
        kept = dict(list(latest.items())[1 - _MOST_KEPT :]) | {_key(device): asdict(rates)}
        write_atomically(file, json.dumps(kept).encode())


def rates_here(device: Device) -> Rates | None:
    """The kept rates, else newly measured ones: takes seconds the first time.

    `None` while the device is in use, and if nothing could be measured. Rates of a moment that was
    not quiet are measured again after `SECONDS_BETWEEN`. A run that starts meanwhile ends the
    measurement. Raises nothing.
    """
    found = kept_rates(device)
    if found is not None and (found.quiet or _is_new(rates_file())):
        return found
    with suppress(OSError, subprocess.SubprocessError):
        lock = DeviceLock(device.id)
        if not lock.try_acquire():
            return found
        try:
            _measure(device, lock)
        finally:
            lock.release()
    return kept_rates(device)


def _measure(device: Device, lock: DeviceLock) -> None:
    """Measures in a process of its own, for `SECONDS` at most and until a run wants the device."""
    until = time.monotonic() + SECONDS
    with subprocess.Popen(
        module_command(MODULE, device.id),
        env=worker_environment(needs_hub=False),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while process.poll() is None and time.monotonic() < until and not lock.is_wanted():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_OF_A_LOOK)
        finally:
            process.kill()  # nothing, once it has ended


def _is_new(file: Path) -> bool:
    with suppress(OSError):
        return time.time() - file.stat().st_mtime < SECONDS_BETWEEN
    return False


def _key(device: Device) -> str:
    """What the rates depend on, as a short text; the same for like cards."""
    with suppress(importlib.metadata.PackageNotFoundError):
        facts = [
            boot_id(), device.kind, device.label, device.capability, cpu_count(),
            importlib.metadata.version("torch"), [rate.name for rate in fields(Rates)],
            (CPU_SETTINGS | cpu_settings())["GOMP_SPINCOUNT"], os.environ.get("OMP_WAIT_POLICY"),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return ""


def _read() -> dict[str, Any]:
    try:
        found = json.loads(read_plain(rates_file(), _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
