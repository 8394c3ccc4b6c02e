"""The capabilities of each method, measured in short trainings of a tiny model, and their table.

`python -m ftlab.maintain probe --write` writes the data file and the table of the README.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from ftlab.basics import units
from ftlab.basics.files import assets_folder
from ftlab.methods.registry import METHODS

FILE = assets_folder() / "capabilities.json"
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")

BEGIN = "<!-- methods table: made by `python -m ftlab.maintain probe --write` -->"
END = "<!-- end of methods table -->"

MARKS: dict[bool | None, tuple[str, str]] = {
    True: ("✓", "yes"),
    False: ("✗", "no"),
    None: ("–", "does not apply"),
}
"""Symbol and word for each result."""


@dataclass(frozen=True)
class Capability:
    """Results of one method. `None`: does not apply (for example, a prompt cannot be merged).

    `generates` and `changes_output` were measured with the app's own generation code;
    `plain_generate`: PEFT's `generate` gives the same text. `on_4bit` and `on_8bit`: it learns on a
    quantised base. `adapter_bytes` is for the tiny model. The loss fell at `rate_factor` times the
    method's learning rate, which is tuned for larger models. `reason` is what does not work and
    why, "" if everything works; `note` is what the probe did differently.
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
    """The table by method id; empty if it was not written yet."""
    return {row["id"]: Capability(**row) for row in _data().get("methods", ())}


@cache
def made_with() -> dict[str, str]:
    """Package versions that the table was measured with, by name."""
    return dict(_data().get("made_with", {}))


def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_bytes()) if FILE.is_file() else {}
    return found


def installed_versions() -> dict[str, str]:
    """The installed package versions, without the build suffix (+cpu)."""
    return {package: version(package).partition("+")[0] for package in _PACKAGES}


def write_capabilities(rows: Iterable[Capability]) -> None:
    """Writes the table with the installed package versions."""
    held = {"made_with": installed_versions(), "methods": [asdict(row) for row in rows]}
    text = json.dumps(held, indent=2, ensure_ascii=False)
    FILE.write_text(text + "\n", encoding="utf-8")
    capabilities.cache_clear()
    made_with.cache_clear()


def is_offered(capability: Capability | None) -> bool:
    """Whether a method can be chosen: it trains, and its result can be reloaded and used.

    A method that was not probed is offered.
    """
    return capability is None or (capability.trains and capability.reloads and capability.answers)


def why_not_offered(method_id: str) -> str:
    """The reason why the method cannot be chosen, as a sentence; "" if it can."""
    capability = capabilities().get(method_id)
    return "" if capability is None or is_offered(capability) else capability.reason


@dataclass(frozen=True)
class Column:
    """A column of the table: its short heading, and what a tick means."""

    key: str
    head: str
    meaning: str


COLUMNS = (
    Column("learns", "learns", "20 steps on one batch take 5 % or more off its loss"),
    Column("reloads", "reloads", "a fresh process loads the file and gets the same logits"),
    Column("answers", "answers", "it generates, and the text is another than the base's"),
    Column("merges", "merges", "merged into the base, it gives the same logits"),
    Column("on_4bit", "4 bits", "learns on a base in NF4"),
    Column("on_8bit", "8 bits", "learns on a base in int8"),
    Column("with_checkpointing", "checkpointing", "gradient checkpointing gives the same gradient"),
    Column("base_untouched", "base stays", "after its removal the base is unchanged, bit for bit"),
)


def answer(capability: Capability, column: Column) -> bool | None:
    value: bool | None = getattr(capability, column.key)
    return value


def footnotes(table: Mapping[str, Capability]) -> dict[str, str]:
    """By method id, its `reason` and `note`; only for methods that have one."""
    texts = {
        method: " ".join(filter(None, (capability.reason, capability.note)))
        for method, capability in table.items()
    }
    return {method: text for method, text in texts.items() if text}


def numbered(notes: Mapping[str, str]) -> dict[str, int]:
    """The footnote number of each text; methods with the same text share one."""
    return {text: i for i, text in enumerate(dict.fromkeys(notes.values()), start=1)}


def readme_table(table: Mapping[str, Capability], made_with: Mapping[str, str]) -> str:
    """The table in Markdown, one row per method, followed by the numbered footnotes."""
    notes = footnotes(table)
    numbers = numbered(notes)
    heads = ["method", *(column.head for column in COLUMNS), "file"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, capability in table.items():
        sup = f" <sup>{numbers[notes[method]]}</sup>" if method in notes else ""
        marks = [MARKS[answer(capability, column)][0] for column in COLUMNS]
        size = units.format_bytes(capability.adapter_bytes)
        lines.append("| " + " | ".join([METHODS[method].label + sup, *marks, size]) + " |")
    meanings = "; ".join(f"*{column.head}*: {column.meaning}" for column in COLUMNS)
    versions = ", ".join(f"{name} {version}" for name, version in made_with.items())
    lines += [
        "",
        f"✓ seen to work, ✗ seen not to, – does not apply. {meanings}; *file*: the file to "
        f"deliver for a Llama of 0.3 M parameters. Probed with {versions}.",
        "",
        *(f"{number}. {text}" for text, number in numbers.items()),
    ]
    return "\n".join(lines)
