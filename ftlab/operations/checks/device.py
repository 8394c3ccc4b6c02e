"""The device that runs would take, and whether torch and bitsandbytes work on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab import nvml, units
from ftlab.devices import Device, free_bytes, why_driver_is_too_old
from ftlab.environment import python_environment
from ftlab.operations.finding import Finding
from ftlab.paths import is_checkout
from ftlab.system import read_proc
from ftlab.torch_devices import way_out

LEAST_FREE_BYTES = 2_000_000_000
"""LoRA on the bundled model at its defaults has its peak at 1.8 GB of a process."""

TORCH_SECONDS = 120.0
_CUDA_BUILD = "python -m pip install --force-reinstall torch, without '+cpu' (see pytorch.org)"
_NO_BF16_ON_GPU = (
    "no bf16: products are computed in fp16 with scaled gradients, a few first steps may be "
    "skipped, and full fine-tuning holds its weights in fp32"
)


def check_device(
    device: Device,
    free: int | None,
    drivers: Sequence[str],
    bf16: bool | None,
    too_old: str = "",
) -> Finding:
    """`drivers`: GPUs that NVIDIA's driver names; `bf16`: in hardware, `None` if unknown.

    `too_old` says, in a sentence, that the driver cannot run this torch.
    """
    without = _NO_BF16_ON_GPU if device.is_gpu else "bf16 by conversion (slower, same results)"
    parts = [device.label]
    if free is not None:
        of = units.format_bytes(device.memory_bytes)
        parts.append(f"{units.format_bytes(free)} free of {of}")
    if bf16 is not None:
        parts.append("bf16 in hardware" if bf16 else without)
    found = ", ".join(parts)
    if too_old:
        return Finding("device", "fail", f"{found}; {too_old}", "or choose --device cpu")
    if drivers and not device.is_gpu:
        found += f"; {drivers[0]} lies idle: this build of torch is for the CPU, or it is hidden"
        return Finding("device", "warn", found, f"{_CUDA_BUILD}; or unset CUDA_VISIBLE_DEVICES")
    if free is not None and free < LEAST_FREE_BYTES:
        needs = units.format_bytes(LEAST_FREE_BYTES)
        return Finding("device", "warn", found, f"end other programs: runs want {needs} or more")
    return Finding("device", "ok", found)


def look_at_device(device: Device) -> Finding:
    """`check_device` with what this machine says."""
    drivers = [card.name for card in nvml.cards()]
    too_old = why_driver_is_too_old() if device.is_cuda else ""
    return check_device(device, free_bytes(device), drivers, has_bf16(device), too_old)


def has_bf16(device: Device, proc: Path | None = None) -> bool | None:
    """Whether the device computes in bf16 itself; `None` if neither driver nor kernel says."""
    if device.is_gpu:
        return None if device.capability is None else not device.lacks_bf16
    lines = (read_proc("cpuinfo", proc) or "").splitlines()
    flags = {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()
    }
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None


def check_torch(
    device: Device, command: Sequence[str] | None = None, seconds: float = TORCH_SECONDS
) -> Finding:
    """Trains one 4-bit layer for one step in a process of its own, so that nothing stays here.

    `command` is what is run instead of the probe; it prints the probe's JSON.
    """
    probe = [sys.executable, "-m", "ftlab.operations.torch_probe", device.id]
    try:
        done = subprocess.run(
            list(command or probe), capture_output=True, text=True, timeout=seconds,
            env=python_environment(), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(
            "torch", "fail", f"no answer within {seconds:.0f} s",
            "end what keeps the device or the disk busy and try again",
        )  # fmt: skip
    except OSError as error:
        return Finding("torch", "fail", f"cannot be started: {error.strerror}", "reinstall Python")
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        again = "-r requirements.txt" if is_checkout() else "torch"
        return Finding(
            "torch", "fail", f"does not start: {last[:200]}",
            f"python -m pip install --force-reinstall {again}",
        )  # fmt: skip
    return _of_answer(answer)


def _of_answer(answer: dict[str, Any]) -> Finding:
    if answer["error"]:
        said = str(answer["error"])
        fix = way_out(said) or "update NVIDIA's driver to one that this torch is built for"
        return Finding("torch", "fail", said[:200], f"{fix}; or choose --device cpu")
    if answer["bitsandbytes"]:
        return Finding(
            "torch", "warn", f"torch works; bitsandbytes does not: {answer['bitsandbytes'][:200]}",
            "QLoRA and 8-bit AdamW need it: python -m pip install --force-reinstall bitsandbytes",
        )  # fmt: skip
    return Finding(
        "torch", "ok", f"bf16 and a 4-bit layer of bitsandbytes train on {answer['device']}"
    )
