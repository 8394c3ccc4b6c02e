"""What each method was seen to do with the installed versions: the table that `ftlab probe` writes.

Nothing here is guessed: every entry comes from a short training on a tiny model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version

from ftlab.paths import assets_folder

FILE = assets_folder() / "capabilities.json"
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Capability:
    """One method. `None`: not asked (a prompt cannot be merged, say).

    `generates` and `changes_output` are about the app's own way to have a model answer,
    `plain_generate` says whether PEFT's `generate` gives the same text. `on_4bit` and `on_8bit` are
    about a base held in so many bits, `adapter_bytes` about the tiny model. The loss was seen to
    fall at `rate_factor` times the method's learning rate, which is tuned for larger models.
    `reason` says what does not work and why, "" where all does; `note` what was done otherwise.
    """

    id: str
    trains: bool
    loss_falls: bool
    reloads: bool
    generates: bool
    changes_output: bool
    plain_generate: bool
    merges: bool | None
    on_4bit: bool | None
    on_8bit: bool | None
    with_checkpointing: bool | None
    base_untouched: bool | None
    adapter_bytes: int | None
    rate_factor: int | None
    reason: str = ""
    note: str = ""

    @property
    def learns(self) -> bool:
        return self.trains and self.loss_falls

    @property
    def answers(self) -> bool:
        return self.generates and self.changes_output


@cache
def capabilities() -> dict[str, Capability]:
    """By method id; empty before the table was written."""
    if not FILE.is_file():
        return {}
    rows = json.loads(FILE.read_text(encoding="utf-8"))["methods"]
    return {row["id"]: Capability(**row) for row in rows}


@cache
def made_with() -> dict[str, str]:
    """The versions of the packages that the table was made with, by name."""
    if not FILE.is_file():
        return {}
    return dict(json.loads(FILE.read_text(encoding="utf-8"))["made_with"])


def installed_versions() -> dict[str, str]:
    """The versions that a probe made now would be made with; a build's own mark is left out."""
    return {package: version(package).partition("+")[0] for package in _PACKAGES}


def write_capabilities(rows: Iterable[Capability]) -> None:
    """Writes the table, with the versions that are installed now."""
    held = {"made_with": installed_versions(), "methods": [asdict(row) for row in rows]}
    text = json.dumps(held, indent=2, ensure_ascii=False)
    FILE.write_text(text + "\n", encoding="utf-8")
    capabilities.cache_clear()
    made_with.cache_clear()


def is_offered(capability: Capability | None) -> bool:
    """Whether a method can be chosen: it learns, and what it learnt can be used again.

    A method that was not probed is offered.
    """
    return capability is None or (
        capability.trains
        and capability.reloads
        and capability.generates
        and capability.changes_output
    )


def why_not_offered(method_id: str) -> str:
    """The sentence that says why the method cannot be chosen; "" where it can."""
    capability = capabilities().get(method_id)
    return "" if capability is None or is_offered(capability) else capability.reason
