"""Lists the devices of this machine and their memory use, without importing torch."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import TypeAdapter

from ftlab.basics import nvml
from ftlab.basics.errors import FtlabError
from ftlab.basics.nvml import FIRST_WITH_BF16, Capability
from ftlab.basics.processes import DEVICES_VARIABLE, python_environment, resident_bytes

AUTO = "auto"
CPU = "cpu"
MPS = "mps"

Kind = Literal["cpu", "cuda", "rocm", "mps"]

TRIED: tuple[Kind, ...] = ("cpu", "cuda")
"""Kinds of devices that ftlab's own checks cover. Others are offered too, marked "not tried"."""

_NAMES: dict[Kind, str] = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "mps": "MPS"}
_LIST_SECONDS = 60.0
_EQUAL_MEMORY = 0.01  # as a share


@dataclass(frozen=True)
class Device:
    """`id` is torch's name: "cpu", "cuda:0" (also for AMD), "mps". "cuda:0.1" is a MIG instance.

    `memory_bytes` is its total memory. `uuid` is its name in `CUDA_VISIBLE_DEVICES`, "" if it has
    none. `capability` is NVIDIA's compute capability; `None` for other vendors or if unknown.
    """

    id: str
    label: str
    memory_bytes: int
    uuid: str = ""
    capability: Capability | None = None
    is_rocm: bool = False

    @property
    def kind(self) -> Kind:
        if self.id.startswith("cuda"):
            return "rocm" if self.is_rocm else "cuda"
        return "mps" if self.id == MPS else "cpu"

    @property
    def is_cuda(self) -> bool:
        """Whether torch calls it "cuda": cards of NVIDIA and of AMD."""
        return self.id.startswith("cuda")

    @property
    def is_gpu(self) -> bool:
        return self.kind != "cpu"

    @property
    def kind_name(self) -> str:
        """The kind of device as the page names it."""
        return "GPU" if self.is_gpu else "CPU"

    @property
    def lacks_bf16(self) -> bool:
        """Whether 16-bit products are computed in fp16: on NVIDIA cards before sm80."""
        return self.capability is not None and self.capability < FIRST_WITH_BF16

    def is_like(self, other: Device) -> bool:
        """Whether a run takes as long and as much memory on the other: model and memory are equal.

        Cards of one model may report some megabytes less.
        """
        most = max(self.memory_bytes, other.memory_bytes)
        difference = abs(self.memory_bytes - other.memory_bytes)
        mine, yours = ((one.kind, one.label, one.capability) for one in (self, other))
        return mine == yours and difference <= _EQUAL_MEMORY * most

    @property
    def memory_must_be_given_back(self) -> bool:
        """Whether an idle model must be unloaded: on a GPU all processes share the memory."""
        return self.is_gpu


def kind_of(device_id: str) -> str:
    """The device type without the index: "cuda" for "cuda:0" and "cuda:1"."""
    return device_id.partition(":")[0]


def told_devices() -> tuple[Device, ...] | None:
    """The devices that `DEVICES_VARIABLE` tells this process; `None`: this machine's own count."""
    told = os.environ.get(DEVICES_VARIABLE)
    return TypeAdapter(tuple[Device, ...]).validate_json(told) if told else None


@lru_cache(maxsize=1)
def list_devices() -> tuple[Device, ...]:
    """All GPUs that torch can use, then the CPU: of this machine, unless runs are executed on
    others (`told_devices`)."""
    told = told_devices()
    if told is not None:
        return told
    cores = cpu_count()
    label = f"CPU, {cores} core{'s' if cores != 1 else ''}"
    cpu = Device(CPU, label, psutil.virtual_memory().total)
    return (*_gpus(torch_build()), cpu)


def resolve_device(device_id: str) -> Device:
    """The device with that id; "auto" is the first GPU of a kind in `TRIED`, else the CPU
    (`like_devices` are all that it may mean).

    Raises `FtlabError` that lists the available devices if there is none with that id.
    """
    devices = list_devices()
    if device_id == AUTO:
        return next(device for device in devices if device.kind in TRIED)
    for device in devices:
        if device.id == device_id or (device_id == "cuda" and device.is_cuda):
            return device
    known = ", ".join(device.id for device in devices)
    raise FtlabError(
        f"There is no device '{device_id}' on this machine; devices: {known} (or {AUTO})."
    )


def like_devices(device_id: str) -> tuple[Device, ...]:
    """The devices that may do a run which asks for that one, the first one first.

    "auto" is every GPU that is like the first. A device that is named, and a CPU, is alone. Raises
    `FtlabError` as `resolve_device`.
    """
    first = resolve_device(device_id)
    if device_id != AUTO or not first.is_cuda:
        return (first,)
    return tuple(device for device in list_devices() if device.is_like(first))


def auto_label() -> str:
    """What "auto" means here, as in "2 × NVIDIA L4"."""
    first, *others = like_devices(AUTO)
    return f"{1 + len(others)} × {first.label}" if others else first.label


def device_choices() -> list[tuple[str, str]]:
    """(label, id) of every device; labels of cards with equal names include the id."""
    devices = list_devices()
    labels = [device.label for device in devices]
    return [
        (one.label if labels.count(one.label) == 1 else f"{one.label} ({one.id})", one.id)
        for one in devices
    ]


@cache
def usable_cores() -> frozenset[int]:
    """The numbers of the CPU cores that this process may use, as they were at the first call.

    With `OMP_PROC_BIND` the import of torch binds the main thread to one of them, though the
    threads of its products still use all: `prepare_for_libraries` calls this before.
    """
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_count() -> int:
    """CPU cores that this process may use."""
    return len(usable_cores())


def work_of_others() -> float:
    """Seconds so far that other processes used the cores that this process may use.

    Only the difference of two calls means something; it is exact to about 0.01 s for each core.
    """
    cores = psutil.cpu_times(percpu=True)
    busy = sum(_busy(cores[number]) for number in usable_cores() if number < len(cores))
    return busy - time.process_time()


def _busy(times: Any) -> float:
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0))  # user time includes guest time


def free_bytes(device: Device) -> int | None:
    """Free memory of the device now, also within the container's limit; `None` if unknown.

    Apple's GPUs share the memory of the CPU.
    """
    if device.is_cuda:
        found = nvml.memory(device.uuid) if device.uuid else None
        return None if found is None else found.free
    free = int(psutil.virtual_memory().available)
    left = _left_in_container()
    return free if left is None else min(free, left)


def show_only(device_id: str) -> None:
    """Hides all other GPUs from this process, so that torch's device 0 is the named one.

    Must be called before torch is imported. Uses UUIDs, because the meaning of an index can change.
    For "cpu" all GPUs are hidden: some libraries compute differently if there is a GPU.
    """
    if device_id == CPU:
        list_devices()  # fills the cache before the GPUs are hidden
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""
        return
    if not device_id.startswith("cuda:"):
        return
    number = device_id.partition(":")[2].partition(".")[0]
    device = next((device for device in list_devices() if device.id == device_id), None)
    if device is not None and device.is_rocm:  # torch's index counts the visible devices only
        visible = _allowed(os.environ.get("HIP_VISIBLE_DEVICES")) or []
        place = int(number)
        os.environ["HIP_VISIBLE_DEVICES"] = visible[place] if place < len(visible) else number
        return
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which NVML counts
    os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid if device and device.uuid else number


@dataclass(frozen=True)
class TorchBuild:
    """The CUDA ("13.0") or ROCm version that the installed torch was built for, or `None`."""

    version: str = ""
    cuda: str | None = None
    hip: str | None = None


@lru_cache(maxsize=1)
def torch_build() -> TorchBuild:
    """Reads torch's version file, without importing torch."""
    found = find_spec("torch")
    folders = list(found.submodule_search_locations or ()) if found else []
    try:
        text = (Path(folders[0]) / "version.py").read_text(encoding="utf-8")
    except (OSError, IndexError):
        return TorchBuild()
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.partition(":")[0].strip() in ("__version__", "cuda", "hip"):
            values[name.partition(":")[0].strip()] = ast.literal_eval(value.strip())
    return TorchBuild(values.get("__version__", ""), values.get("cuda"), values.get("hip"))


def why_driver_is_too_old() -> str:
    """A sentence if NVIDIA's driver is too old for the CUDA that torch was built for; else "".

    Within one major version of CUDA, newer libraries run on older drivers (NVIDIA, "CUDA
    Compatibility", minor version compatibility).
    """
    build, driver = torch_build(), nvml.driver()
    if build.cuda is None or driver is None:
        return ""
    if int(build.cuda.partition(".")[0]) <= driver.cuda[0]:
        return ""
    runs = ".".join(map(str, driver.cuda))
    return (
        f"NVIDIA's driver {driver.version} runs CUDA {runs}, and torch {build.version} is built "
        f"for CUDA {build.cuda}; update the driver, or install a torch for CUDA {runs}."
    )


def _gpus(build: TorchBuild) -> list[Device]:
    if build.hip is not None:
        return _named_by_torch()
    if build.cuda is not None:
        return _cuda_devices()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        label = f"Apple GPU, {marked('mps')}"
        return [Device(MPS, label, psutil.virtual_memory().total)]
    return []


def marked(kind: Kind) -> str:
    """The kind of device for a label, as in "ROCm, not tried"."""
    return _NAMES[kind] if kind in TRIED else f"{_NAMES[kind]}, not tried"


def _cuda_devices() -> list[Device]:
    """NVIDIA's cards, and the MIG instances of those in MIG mode.

    Falls back to torch if NVML lists no card, or if `CUDA_VISIBLE_DEVICES` has an index in CUDA's
    own order.
    """
    allowed = _allowed(os.environ.get("CUDA_VISIBLE_DEVICES"))
    cards = nvml.cards()
    if (not cards and has_nvidia_driver()) or _are_in_another_order(allowed, cards):
        return _named_by_torch()
    return [
        Device(
            f"cuda:{card.index}" + ("" if card.instance is None else f".{card.instance}"),
            card.name,
            card.memory_bytes,
            card.uuid,
            card.capability,
        )
        for card in cards
        if not card.is_divided and (allowed is None or any(_names(one, card) for one in allowed))
    ]


def _allowed(visible: str | None) -> list[str] | None:
    """The entries of `CUDA_VISIBLE_DEVICES`, indices or UUIDs; `None` for all GPUs.

    CUDA ignores everything after the first invalid entry.
    """
    if visible is None:
        return None
    parts = [part.strip() for part in visible.split(",")]
    return list(takewhile(lambda part: part and not part.startswith("-"), parts))


def _are_in_another_order(allowed: Sequence[str] | None, cards: Sequence[nvml.Card]) -> bool:
    """Whether an index may mean different cards to CUDA, which lists the fastest first, and NVML.

    Equal cards are equally fast, so CUDA orders them by PCI bus, as NVML does.
    """
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({c.name for c in cards}) < 2:
        return False
    return any(name.isdigit() for name in allowed or ())


def _names(wanted: str, card: nvml.Card) -> bool:
    """Whether an entry of `CUDA_VISIBLE_DEVICES` (an index, or a prefix of a UUID) names the card.

    The index of a card in MIG mode names its instances.
    """
    return wanted == str(card.index) or (
        wanted.startswith(("GPU-", "MIG-")) and card.uuid.startswith(wanted)
    )


def has_nvidia_driver(devices: Path = Path("/dev")) -> bool:
    """Whether an NVIDIA driver is loaded: for a card, in WSL, or on a Jetson."""
    return any((devices / name).exists() for name in ("nvidiactl", "dxg", "nvmap"))


def _named_by_torch() -> list[Device]:
    """The cards as torch lists them, in a separate process."""
    command = [sys.executable, "-m", "ftlab.basics.torch_devices"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIST_SECONDS, check=False,
            env=python_environment(),
        )  # fmt: skip
        return [_from_torch(i, c) for i, c in enumerate(json.loads(done.stdout.splitlines()[-1]))]
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return []


def _from_torch(index: int, card: dict[str, Any]) -> Device:
    """Converts an entry of `torch_devices`; AMD's cards have no capability there."""
    is_rocm = card["capability"] is None
    return Device(
        f"cuda:{index}",
        f"{card['name']}, {marked('rocm')}" if is_rocm else str(card["name"]),
        int(card["memory_bytes"]),
        str(card["uuid"]),
        None if is_rocm else (int(card["capability"][0]), int(card["capability"][1])),
        is_rocm,
    )


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left under the limit of the cgroup (v2); reclaimable file pages count as free."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(pages.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def memory_in_use(device_id: str, pid: int) -> int | None:
    """Bytes in use, of the process on a CPU, of all processes on a GPU; `None` if unknown."""
    if not device_id.startswith("cuda"):
        return resident_bytes(pid)
    device = next((device for device in list_devices() if device.id == device_id), None)
    memory = nvml.memory(device.uuid) if device is not None and device.uuid else None
    return None if memory is None else memory.used
