"""Queries NVIDIA's driver for the cards of this machine (NVML), without torch.

A driver may reject any query (MIG, WDDM, containers, a lost card). Then the result is `None` or an
empty list. Cards and MIG instances are identified by UUID, because `CUDA_VISIBLE_DEVICES` changes
the meaning of an index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Capability = tuple[int, int]
"""CUDA's compute capability: (7, 5) for a T4, (8, 0) for an A100, (9, 0) for an H100."""

FIRST_WITH_BF16: Capability = (8, 0)
"""Older cards compute 16-bit products in fp16."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Card:
    """A GPU, or a MIG instance of one; then `instance` is its number within the card `index`.

    `is_divided`: the card is in MIG mode, so only its instances can be used. `name` is the full
    name, as in "NVIDIA A100-SXM4-40GB MIG 1g.5gb"; `memory_bytes` is its total memory.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    capability: Capability | None = None
    instance: int | None = None
    is_divided: bool = False


@dataclass(frozen=True)
class Driver:
    """The driver's version, and the newest CUDA version that it supports, as in (13, 0)."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Memory:
    """Memory of a card in bytes."""

    total: int
    used: int
    free: int


@dataclass(frozen=True)
class Process:
    """A compute process on a card; `bytes` is `None` if the driver does not report it."""

    pid: int
    bytes: int | None


def cards() -> tuple[Card, ...]:
    """All cards, each followed by its MIG instances. A lost card is left out."""
    return tuple(_ask(lambda nvml: list(_cards(nvml)), []))


def driver() -> Driver | None:
    def read(nvml: Any) -> Driver:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        version = str(nvml.nvmlSystemGetDriverVersion())
        return Driver(version, (cuda // 1000, cuda % 1000 // 10))

    return _ask(read, None)


def memory(uuid: str) -> Memory | None:
    def read(nvml: Any) -> Memory:
        info = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid))
        return Memory(int(info.total), int(info.used), int(info.free))

    return _ask(read, None)


def load(uuid: str) -> int | None:
    """Percent of the last moment in which the card computed; `None` for a MIG instance."""

    def read(nvml: Any) -> int:
        return int(nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByUUID(uuid)).gpu)

    return _ask(read, None)


def processes(uuid: str) -> list[Process]:
    """The compute processes on the card. In a container the pids may be the host's."""

    def read(nvml: Any) -> list[Process]:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return [Process(int(one.pid), one.usedGpuMemory) for one in found]

    return _ask(read, [])


def computing(uuid: str, since: int = 0) -> tuple[dict[int, int], int]:
    """The peak SM utilisation in percent per computing pid, and the timestamp for the next call,
    in the driver's microseconds. Empty if the driver does not report it."""

    def read(nvml: Any) -> tuple[dict[int, int], int]:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        shares: dict[int, int] = {}
        latest = since
        for sample in nvml.nvmlDeviceGetProcessUtilization(handle, since):
            latest = max(latest, int(sample.timeStamp))
            if sample.smUtil:
                shares[int(sample.pid)] = max(shares.get(sample.pid, 0), int(sample.smUtil))
        return shares, latest

    return _ask(read, ({}, since))


_SLOWED = {
    "nvmlClocksThrottleReasonHwThermalSlowdown": "it was too hot",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "it was too hot",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "its power supply asked for it",
    "nvmlClocksThrottleReasonHwSlowdown": "its hardware asked for it",
}
"""Throttle reasons that count as slowed down. The power limit is not one of them: under load, large
cards always run at theirs."""


def why_slowed(uuid: str) -> str:
    """Why the card is throttled now; "" if it is not, or if unknown."""

    def read(nvml: Any) -> str:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        mask = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return next((why for name, why in _SLOWED.items() if mask & getattr(nvml, name, 0)), "")

    return _ask(read, "")


def _ask(question: Callable[[Any], Answer], otherwise: Any) -> Any:
    """Runs the query with `pynvml`; returns `otherwise` if it fails."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return question(pynvml)
    except Exception:  # no driver, no library, no permission, query not supported
        return otherwise


def _cards(nvml: Any) -> Iterator[Card]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            card = replace(
                _card(nvml, handle, index),
                capability=_capability(nvml, handle),
                is_divided=_is_divided(nvml, handle),
            )
            yield card
            if card.is_divided:
                yield from _instances(nvml, handle, card)
        except nvml.NVMLError:  # one card of several that fell off the bus
            continue


def _instances(nvml: Any, handle: Any, card: Card) -> Iterator[Card]:
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:  # an empty slot
            continue
        own = _card(nvml, instance, card.index)
        yield replace(own, capability=card.capability, instance=place)


def _card(nvml: Any, handle: Any, index: int) -> Card:
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    return Card(index, str(uuid), str(name), int(nvml.nvmlDeviceGetMemoryInfo(handle).total))


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:  # no MIG support in the card or in the library
        return False


def _capability(nvml: Any, handle: Any) -> Capability | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return int(major), int(minor)
    except Exception:  # not supported by the card or the driver
        return None
