"""What NVIDIA's driver says of the cards of this machine, asked without torch (NVML).

A driver may refuse any question (MIG, WDDM, containers, a card that is lost). Then there is
no answer: `None`, or nothing in the list. Cards and their MIG instances are named by UUID, because
a number means another card as soon as `CUDA_VISIBLE_DEVICES` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Capability = tuple[int, int]
"""CUDA's compute capability: (7, 5) is a T4, (8, 0) an A100, (9, 0) an H100."""

FIRST_WITH_BF16: Capability = (8, 0)
"""Cards before it compute 16-bit products in fp16."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Card:
    """A GPU, or one MIG instance of it: then `instance` is its number within the card `index`.

    `is_divided`: the card is in MIG mode, so only its instances can be used. `name` is a whole
    sentence's subject, as in "NVIDIA A100-SXM4-40GB MIG 1g.5gb"; bytes are all of its memory.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    capability: Capability | None
    instance: int | None = None
    is_divided: bool = False


@dataclass(frozen=True)
class Driver:
    """The driver's own version, and the newest CUDA that it runs, as in (13, 0)."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Memory:
    """Bytes of a card."""

    total: int
    used: int
    free: int


@dataclass(frozen=True)
class Process:
    """A process that computes on a card; `bytes` is `None` where the driver does not say."""

    pid: int
    bytes: int | None


def cards() -> tuple[Card, ...]:
    """Every card that answers, each followed by its MIG instances. One that is lost is left out."""
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


def processes(uuid: str) -> list[Process]:
    """Those that compute on the card. In a container their numbers may be the host's."""

    def read(nvml: Any) -> list[Process]:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return [
            Process(
                int(found.pid), None if found.usedGpuMemory is None else int(found.usedGpuMemory)
            )
            for found in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ]

    return _ask(read, [])


def computing(uuid: str, since: int = 0) -> tuple[dict[int, int], int]:
    """Processes that the card's multiprocessors worked for since that moment, and a later moment.

    Of each process the largest share, in percent; the moment, the driver's own microseconds, is for
    the next call. A process that only holds memory is not among them. Empty where the driver does
    not say.
    """

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
"""Why a card lowers its clocks below what a load like this has otherwise. A power limit that is met
is no such reason: large cards compute at theirs."""


def why_slowed(uuid: str) -> str:
    """Why the card computes at lowered clocks just now; "" where it does not, as far as known."""

    def read(nvml: Any) -> str:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        mask = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return next((why for name, why in _SLOWED.items() if mask & getattr(nvml, name, 0)), "")

    return _ask(read, "")


def _ask(question: Callable[[Any], Answer], otherwise: Any) -> Any:
    """The answer of the library `pynvml`, or `otherwise`."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return question(pynvml)
    except Exception:  # no driver, no library, no permission, no such question
        return otherwise


def _cards(nvml: Any) -> Iterator[Card]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            divided = _is_divided(nvml, handle)
            capability = _capability(nvml, handle)
            yield _card(nvml, handle, index, capability, None, divided)
            if divided:
                yield from _instances(nvml, handle, index, capability)
        except nvml.NVMLError:  # one card of several that fell off the bus
            continue


def _instances(nvml: Any, handle: Any, index: int, capability: Capability | None) -> Iterator[Card]:
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:  # the places are not all taken
            continue
        yield _card(nvml, instance, index, capability, place, False)


def _card(
    nvml: Any,
    handle: Any,
    index: int,
    capability: Capability | None,
    instance: int | None,
    divided: bool,
) -> Card:
    return Card(
        index,
        str(nvml.nvmlDeviceGetUUID(handle)),
        str(nvml.nvmlDeviceGetName(handle)),
        int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        capability,
        instance,
        divided,
    )


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:  # a card without MIG, a library that does not know it
        return False


def _capability(nvml: Any, handle: Any) -> Capability | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return int(major), int(minor)
    except Exception:
        return None
