"""The table of what each method was seen to do: its columns, its marks, and the README's copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ftlab import units
from ftlab.errors import FtlabError
from ftlab.methods.capabilities import Capability
from ftlab.methods.registry import METHODS

BEGIN = "<!-- methods table: made by `python -m ftlab probe --write` -->"
END = "<!-- end of methods table -->"

MARKS: dict[bool | None, tuple[str, str]] = {
    True: ("✓", "yes"),
    False: ("✗", "no"),
    None: ("–", "does not apply"),
}
"""Sign and word of an answer."""


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
