"""What each method was seen to do with the installed versions, and how the table is shown.

`python -m ftlab.maintain probe --write` writes it.

Nothing here is guessed: every entry comes from a short training on a tiny model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
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
"""Sign and word of an answer."""


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


@dataclass(frozen=True)
class Column:
    """One question: a short head, and what a tick means."""

    key: str
    head: str
    meaning: str


COLUMNS = (
    Column("learns", "learns", "20 steps on one batch take 5 % or more off its loss"),
    Column("reloads", "reloads", "a fresh process loads the file and gets the same logits"),
    Column("answers", "answers", "it generates, and the text is another than the base's"),
    Column("merges", "merges", "laid into the base for good, it gives the same logits"),
    Column("on_4bit", "4 bits", "learns on a base held in NF4"),
    Column("on_8bit", "8 bits", "learns on a base held in int8"),
    Column("with_checkpointing", "checkpointing", "gradient checkpointing gives the same gradient"),
    Column("base_untouched", "base stays", "taken off, it leaves the base bit for bit as it was"),
)


def answer(capability: Capability, column: Column) -> bool | None:
    value: bool | None = getattr(capability, column.key)
    return value


def footnotes(table: Mapping[str, Capability]) -> dict[str, str]:
    """By method id what does not work, and what was done otherwise, for those with either."""
    texts = {
        method: " ".join(filter(None, (capability.reason, capability.note)))
        for method, capability in table.items()
    }
    return {method: text for method, text in texts.items() if text}


def numbered(notes: Mapping[str, str]) -> dict[str, int]:
    """By text the number of its footnote: methods with the same text share one."""
    return {text: i for i, text in enumerate(dict.fromkeys(notes.values()), start=1)}


def readme_table(table: Mapping[str, Capability], made_with: Mapping[str, str]) -> str:
    """Markdown: a row a method of the registry, and under it the numbered footnotes."""
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
        f"✓ seen to work, ✗ seen not to, – does not apply. {meanings}; *file*: what has to be "
        f"shipped for a Llama of 0.3 M parameters. Probed with {versions}.",
        "",
        *(f"{number}. {text}" for text, number in numbers.items()),
    ]
    return "\n".join(lines)


def put_into(readme: str, table: str) -> str:
    """The README's text with the table between its markers; raises `FtlabError` without them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise FtlabError(f"The README has no place for the table: '{BEGIN}' … '{END}' is missing.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
