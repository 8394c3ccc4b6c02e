"""Flavors of Hugging Face Jobs: the machines, their cards, and what an hour of them costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ftlab.basics.cards import Card, cards
from ftlab.basics.devices import CPU, Device
from ftlab.basics.errors import FtlabError

_AN_HOUR = {"second": 3600, "minute": 60, "hour": 1}
_GIGABYTES = re.compile(r"([\d.]+)\s*([GT])i?B", re.IGNORECASE)
_NAME = re.compile(r"(.+?)(?:-small|-medium|-large|-basic|-upgrade|-performance|-xl)?(?:x(\d+))?")


@dataclass(frozen=True)
class Flavor:
    """A machine that jobs run on. `dollars_an_hour` is `None` if the Hub did not say it."""

    name: str
    words: str
    devices: tuple[Device, ...]
    dollars_an_hour: float | None = None

    @property
    def sentence(self) -> str:
        if self.dollars_an_hour is None:
            return f"{self.name}: {self.words}; the Hub does not say what it costs."
        return f"{self.name}: {self.words}, ${self.dollars_an_hour:.2f} an hour."

    def dollars(self, seconds: float) -> float | None:
        return None if self.dollars_an_hour is None else self.dollars_an_hour * seconds / 3600


def find_flavor(api: Any, name: str) -> Flavor:
    """The flavor with that name; its price is `None` if the Hub's list cannot be had.

    `api` is an `HfApi`. Raises `FtlabError` with the nearest ones if there is none, or if ftlab
    does not run on its accelerator.
    """
    try:
        hardware = api.list_jobs_hardware()
    except Exception:
        from huggingface_hub import JobHardware

        return flavor_unlisted(name, [str(one.value) for one in JobHardware])
    return flavor_listed(name, hardware)


def flavor_listed(name: str, hardware: Sequence[Any]) -> Flavor:
    """The flavor of `HfApi.list_jobs_hardware`; raises as `find_flavor`."""
    found = next((one for one in hardware if one.name == name), None)
    if found is None:
        raise no_flavor(name, [one.name for one in hardware])
    accelerator = found.accelerator
    host = f"{found.cpu}, {found.ram}"
    hour = _AN_HOUR.get(str(found.unit_label).rstrip("s"))
    dollars = None if hour is None else found.unit_cost_micro_usd * hour / 1e6
    if accelerator is None:
        return Flavor(name, host, (_cpu(found.pretty_name, _bytes(found.ram)),), dollars)
    if accelerator.type != "gpu" or accelerator.manufacturer.lower() != "nvidia":
        raise FtlabError(
            f"ftlab does not run on the accelerator of '{name}' ({accelerator.manufacturer} "
            f"{accelerator.model}); choose a flavor with an NVIDIA GPU, or without any."
        )
    count = int(_number(accelerator.quantity))
    memory = _bytes(accelerator.vram) // count
    card = _card(accelerator.model, memory)
    words = f"{_gpus(count, accelerator.model)}, {accelerator.vram}; {host}"
    devices = _devices(count, card, accelerator.model, memory)
    return Flavor(name, words, (*devices, _cpu(found.pretty_name, _bytes(found.ram))), dollars)


def flavor_unlisted(name: str, known: Sequence[str]) -> Flavor:
    """The flavor by its name alone, for when the Hub does not list any: nobody knows its price.

    Raises `FtlabError` if it is not in `known`, or if ftlab does not know its card.
    """
    if name not in known:
        raise no_flavor(name, known)
    model, count = _parts(name)
    if model == CPU:
        return Flavor(name, "CPU", (_cpu("CPU", 16 << 30),))
    card = _card(model, 1 << 40)
    if card is None:
        raise FtlabError(
            f"The Hub does not list its hardware now, and ftlab does not know the card of '{name}';"
            " try again later, or choose another flavor."
        )
    words = _gpus(count, card.label)
    devices = _devices(count, card, card.label, card.memory_bytes)
    return Flavor(name, words, (*devices, _cpu("CPU", 16 << 30)))


def no_flavor(name: str, known: Sequence[str]) -> FtlabError:
    near = get_close_matches(name[:80].lower(), list(known), n=4, cutoff=0.4) or list(known)
    return FtlabError(f"There is no flavor '{name[:80]}'; the nearest: {', '.join(near)}.")


def _parts(name: str) -> tuple[str, int]:
    """As in "l40sx4" -> ("l40s", 4)."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2] or 1)) if found else (name, 1)


def _gpus(count: int, model: str) -> str:
    return f"{count} × {model}" if count > 1 else model


def _cpu(label: str, memory: int) -> Device:
    return Device(CPU, label, memory)


def _devices(count: int, card: Card | None, model: str, memory: int) -> list[Device]:
    label = card.label if card else model
    size = card.memory_bytes if card else memory
    capability = card.capability if card else None
    return [Device(f"cuda:{n}", label, size, capability=capability) for n in range(count)]


def _card(model: str, memory: int) -> Card | None:
    """The card of the table, of those with this name the one with the nearest memory."""
    name = model.lower().replace(" ", "-")
    named = [card for card in cards() if card.id == name or card.id.startswith(f"{name}-")]
    return min(named, key=lambda card: abs(card.memory_bytes - memory), default=None)


def _number(text: str) -> float:
    found = re.search(r"\d+", str(text))
    return float(found[0]) if found else 1


def _bytes(text: str) -> int:
    """As in "24 GB"; 16 GB where there is no number."""
    found = _GIGABYTES.search(str(text))
    if found is None:
        return 16 << 30
    return int(float(found[1]) * (1 << (40 if found[2].upper() == "T" else 30)))
