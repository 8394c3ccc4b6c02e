"""Conditions on numbers as people type them: `net peak < 1 GB, train >= 30 s, score > 0.3`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

import pandas as pd

from ftlab.errors import FtlabError
from ftlab.ui.results.columns import COLUMNS, Column

Sign = Literal["<", "<=", ">", ">=", "="]

EXAMPLE = "net peak < 1 GB, train >= 30 s, score > 0.3, trainable < 1 %"

_CONDITION = re.compile(
    r"(?P<name>[^<>=≤≥]+?)\s*(?P<sign><=|>=|==|[<>=≤≥])\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<unit>[^\d\s].*)?",
    re.IGNORECASE,
)
_SIGNS: dict[str, Sign] = {
    "<": "<", "<=": "<=", "≤": "<=", ">": ">", ">=": ">=", "≥": ">=", "=": "=", "==": "=",
}  # fmt: skip

# Factor of each unit by the unit of the raw value; "" where a bare number says enough.
_UNITS: dict[str, dict[str, float]] = {
    "bytes": {
        "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    },
    "seconds": {"": 1, "s": 1, "ms": 1e-3, "min": 60, "h": 3600},
    "parameters": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "of all parameters": {"": 1, "%": 0.01},
    "0 to 1": {"": 1, "%": 0.01},
}  # fmt: skip
_OTHER_NAMES = {
    "size": "adapter_bytes",
    "memory": "net_peak_memory_bytes",
    "time": "train_seconds",
    "tokens per second": "tokens_per_second",
    "lr": "learning_rate",
    "batch size": "batch_size",
    "base loss": "eval_loss_before",
    "base score": "score_before",
}
_BY_UNIT = {("trainable_params", "%"): "trainable_share"}
"""A name whose unit says that another number is meant: trainable < 1 % is a share."""


@dataclass(frozen=True)
class Condition:
    """`value` is in the raw unit of the column `key`: bytes, seconds, a share of 1."""

    key: str
    sign: Sign
    value: float


MAX_CHARACTERS = 2_000
"""Of all conditions together."""


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """The conditions in the text, between commas; none for an empty one.

    Raises `FtlabError` with one sentence on the first that cannot be read.
    """
    if len(text) > MAX_CHARACTERS:  # the search for numbers takes the square of it
        raise FtlabError(f"The conditions have more than {MAX_CHARACTERS:,} characters.")
    comma = re.search(r"\d+,\d+", text)
    if comma:
        raise FtlabError(
            f"'{comma[0][:20]}': write a number with a point, as in 1.5; a comma stands between "
            "conditions."
        )
    parts = (part.strip() for part in re.split(r"[,;]|\band\b", text))
    return tuple(_condition(part) for part in parts if part)


def matches(table: pd.DataFrame, conditions: Iterable[Condition]) -> pd.Series:
    """Which rows meet every condition; a number that is missing meets none."""
    found = pd.Series(True, index=table.index)
    for condition in conditions:
        numbers = pd.to_numeric(table[condition.key], errors="coerce").astype(float)
        found &= _compared(numbers, condition.sign, condition.value)
    return found


def _numbers() -> list[Column]:
    return [column for column in COLUMNS.values() if column.kind != "text"]


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise FtlabError(
            f"'{text[:60]}' is no condition; write a name, one of {', '.join(get_args(Sign))} "
            "and a number, as in net peak < 1 GB."
        )
    column, unit = _column(found["name"]), (found["unit"] or "").strip()
    column = COLUMNS[_BY_UNIT.get((column.key, unit), column.key)]
    return Condition(
        column.key, _SIGNS[found["sign"]], float(found["number"]) * _factor(column, unit)
    )


def _column(name: str) -> Column:
    names = {_plain(column.label): column.key for column in _numbers()}
    keys = {_plain(column.key): column.key for column in _numbers()}
    every = keys | _OTHER_NAMES | names
    plain = _plain(name)
    if plain in every:
        return COLUMNS[every[plain]]
    near = get_close_matches(plain, every, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise FtlabError(f"There is no number '{name.strip()[:40]}'; names: {', '.join(names)}.{hint}")


def _factor(column: Column, unit: str) -> float:
    known: Mapping[str, float] = _UNITS.get(column.unit, {"": 1})
    if unit in known:
        return known[unit]
    folded = {name.lower(): factor for name, factor in known.items()}
    if unit.lower() in folded:
        return folded[unit.lower()]
    name, named = _plain(column.label), ", ".join(filter(None, known))
    if not unit:
        raise FtlabError(f"A number for '{name}' needs a unit, as in 1 GB; units: {named}.")
    rule = f"units: {named}" if named else "it takes a bare number"
    raise FtlabError(f"'{unit[:20]}' is no unit of '{name}'; {rule}.")


def _compared(numbers: pd.Series, sign: Sign, value: float) -> pd.Series:
    if sign == "<":
        return numbers < value
    if sign == "<=":
        return numbers <= value
    if sign == ">":
        return numbers > value
    if sign == ">=":
        return numbers >= value
    return (numbers - value).abs() <= 1e-9 * max(1.0, abs(value))


def _plain(name: str) -> str:
    """ "Loss, base" -> "loss base"; "net_peak" -> "net peak"."""
    return " ".join(re.sub(r"[,:_]", " ", name.lower()).split())
