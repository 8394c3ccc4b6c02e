"""A machine with NVIDIA cards, as its driver's library shows them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from ftlab.basics import devices

GB = 1_000_000_000


class NVMLError(Exception):
    pass


@dataclass
class FakeCard:
    """A card as NVML knows it: its own handle, and its MIG instances."""

    name: str
    uuid: str
    total: int | None = 24 * GB
    free: int = 20 * GB
    capability: tuple[int, int] = (8, 9)
    instances: list[FakeCard] = field(default_factory=list)
    is_lost: bool = False
    load: int = 0


def nvml_of(*cards: FakeCard, cuda: int = 13000) -> SimpleNamespace:
    """The library `pynvml` on a machine with those cards."""
    everything = [one for card in cards for one in (card, *card.instances)]

    def by_index(index: int) -> FakeCard:
        if cards[index].is_lost:
            raise NVMLError("GPU is lost")
        return cards[index]

    def memory(card: FakeCard) -> SimpleNamespace:
        if card.total is None:
            raise NVMLError("not supported")
        return SimpleNamespace(total=card.total, free=card.free, used=card.total - card.free)

    def instance(card: FakeCard, place: int) -> FakeCard:
        if place >= len(card.instances):
            raise NVMLError("not found")
        return card.instances[place]

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=by_index,
        nvmlDeviceGetHandleByUUID=lambda uuid: next(c for c in everything if c.uuid == uuid),
        nvmlDeviceGetUUID=lambda card: card.uuid,
        nvmlDeviceGetName=lambda card: card.name,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=card.load),
        nvmlDeviceGetCudaComputeCapability=lambda card: card.capability,
        nvmlDeviceGetMigMode=lambda card: (int(bool(card.instances)), 0),
        nvmlDeviceGetMaxMigDeviceCount=lambda card: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlSystemGetCudaDriverVersion_v2=lambda: cuda,
        nvmlSystemGetDriverVersion=lambda: "470.82",
    )


def use_cards(
    monkeypatch: pytest.MonkeyPatch, *cards: FakeCard, cuda: int = 13000, built: str | None = "13.0"
) -> None:
    """Makes this a machine with those cards, and a torch built for that CUDA."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml_of(*cards, cuda=cuda))
    build = devices.TorchBuild("2.11.0", built)
    monkeypatch.setattr(devices, "torch_build", lambda: build)
