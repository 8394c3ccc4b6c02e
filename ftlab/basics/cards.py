"""Graphics cards to plan for: their memory as the driver reports it, in one data file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from ftlab.basics.devices import Device, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder
from ftlab.basics.nvml import Capability
from ftlab.basics.words import did_you_mean

CONTEXT_BYTES = 500_000_000
"""What CUDA itself takes of a card before the first tensor: about 150 MB on a T4, 500 on newer
ones. It lies outside of torch's counters, so it is shown apart."""

HERE = "here"


@dataclass(frozen=True)
class Card:
    """`memory_bytes` is all of it; `context_bytes` what is gone before a tensor is made.

    `capability` is its compute capability, `None` where it has none or is not known.
    """

    id: str
    label: str
    memory_bytes: int
    year: int | None = None
    kind: str = ""
    context_bytes: int = CONTEXT_BYTES
    capability: Capability | None = None

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes - self.context_bytes


@lru_cache(maxsize=1)
def cards() -> tuple[Card, ...]:
    """Every card of the data file."""
    rows = json.loads((assets_folder() / "cards.json").read_text(encoding="utf-8"))
    return tuple(
        Card(
            row["id"],
            row["label"],
            row["memory_mib"] << 20,
            row["year"],
            row["kind"],
            capability=_capability(row["capability"]),
        )
        for row in rows
    )


def find_card(name: str) -> Card:
    """The card of that id or label, or this machine's first GPU ("here").

    Raises `FtlabError` with the nearest name.
    """
    wanted = name.strip().lower()
    if wanted == HERE:
        return this_machine()
    for card in cards():
        if wanted in (card.id, card.label.lower()):
            return card
    nearest = did_you_mean(wanted, [card.id for card in cards()])
    raise FtlabError(
        f"There is no card '{name[:60]}' in the table; name one by its id, as in rtx-4090, or "
        f"'{HERE}' for this machine.{nearest}"
    )


def this_machine() -> Card:
    """This machine's first GPU; raises `FtlabError` where there is none."""
    device = next((device for device in list_devices() if device.is_gpu), None)
    if device is None:
        raise FtlabError("This machine has no GPU; name a card of the table, as in rtx-4090.")
    return card_of(device)


def card_of(device: Device) -> Card:
    return Card(HERE, device.label, device.memory_bytes, capability=device.capability)


def _capability(text: str) -> Capability:
    """ "7.5" -> (7, 5)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
