"""Table of graphics cards for planning, with their memory as the driver reports it.

Rates are those of the makers' data sheets, without sparsity.
"""

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
"""Memory of the CUDA context, before the first tensor: about 150 MB on a T4, 500 MB on newer cards.
torch's counters do not include it, so it is shown separately."""

HERE = "here"


@dataclass(frozen=True)
class Sheet:
    """A card's data sheet: operations of dense products of 16-bit numbers (added up in 32 bits) and
    of 32-bit numbers, and bytes of its memory, a second."""

    narrow: float
    wide: float
    bytes: float


@dataclass(frozen=True)
class Card:
    """A graphics card: `memory_bytes` is its total memory, `context_bytes` the CUDA context's part.

    `capability` is its compute capability; `None` if it has none or it is unknown. `sheet` is
    `None` for a card that is not in the table.
    """

    id: str
    label: str
    memory_bytes: int
    year: int | None = None
    kind: str = ""
    context_bytes: int = CONTEXT_BYTES
    capability: Capability | None = None
    sheet: Sheet | None = None

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes - self.context_bytes


@lru_cache(maxsize=1)
def cards() -> tuple[Card, ...]:
    """All cards of the data file."""
    rows = json.loads((assets_folder() / "cards.json").read_text(encoding="utf-8"))
    return tuple(
        Card(
            row["id"],
            row["label"],
            row["memory_mib"] << 20,
            row["year"],
            row["kind"],
            capability=_capability(row["capability"]),
            sheet=Sheet(1e12 * row["tflops_16"], 1e12 * row["tflops_32"], 1e9 * row["gb_per_s"]),
        )
        for row in rows
    )


def find_card(name: str) -> Card:
    """The card with that id or label; "here" is this machine's first GPU.

    Raises `FtlabError` with the closest match if there is none.
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
    """This machine's first GPU; raises `FtlabError` if there is none."""
    device = next((device for device in list_devices() if device.is_gpu), None)
    if device is None:
        raise FtlabError("This machine has no GPU; name a card of the table, as in rtx-4090.")
    return card_of(device)


def card_of(device: Device) -> Card:
    named = [card for card in cards() if card.label in device.label]
    sheet = max(named, key=lambda card: len(card.label)).sheet if named else None
    return Card(HERE, device.label, device.memory_bytes, capability=device.capability, sheet=sheet)


def _capability(text: str) -> Capability:
    """ "7.5" -> (7, 5)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
