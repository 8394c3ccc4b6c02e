"""Describes settings in one place for all interfaces, and parses and validates them.

A settings type is a frozen dataclass. Each field is annotated with a `Setting`; the form, the
command line, the API, the validation, the fairness conditions and the panel all read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ftlab.basics.errors import FieldError, FtlabError

Kind = Literal["whole", "real", "text", "switch", "choice", "names"]
Place = Literal["main", "advanced", "own", "command line"]


@dataclass(frozen=True, eq=False)
class Setting:
    """The description of one setting.

    `short` is the label on the form. `help` is one line without a full stop. `low` and `high` are
    the bounds of a number; with `above`, `low` itself is excluded. `high` of a text is its maximum
    length. `unit` is the noun of the number, as in "step". `choices` maps each value to its label.
    `empty` describes what an empty value means; only a setting with `empty` may be empty. `same` is
    the text for runs that share the value, with {} for it; compared runs must have equal values of
    settings with `same`.
    `parse` parses other kinds of values, and `check` yields an error message for each problem of
    the value. `place` is the section of the form ("own": with components of its own; "command
    line": not on the form). Settings with `narrow` share a row. `option` is the name of the
    command line's option if it is not the field's name, and `example` stands for its value.
    """

    label: str
    short: str = ""
    help: str = ""
    low: float = 0
    high: float = math.inf
    above: bool = False
    unit: str = ""
    choices: Mapping[Any, str] | None = None
    empty: str = ""
    same: str = ""
    parse: Callable[[Any], Any] | None = None
    check: Callable[[Any], Iterator[str]] | None = None
    place: Place = "advanced"
    narrow: bool = False
    option: str = ""
    example: str = ""

    @property
    def is_on_form(self) -> bool:
        """Whether the form has a component for it, made from this description."""
        return self.place in ("main", "advanced")


@dataclass(frozen=True)
class Field:
    """A setting with its name, its kind and its default value in a settings type."""

    name: str
    kind: Kind
    default: Any
    setting: Setting

    @property
    def label(self) -> str:
        return self.setting.short or self.setting.label

    @property
    def about(self) -> str:
        """Its help, else its label, as the middle of a sentence."""
        return self.setting.help or self.setting.label[:1].lower() + self.setting.label[1:]

    @property
    def option(self) -> str:
        """The name of its option, as in "batch-size"."""
        return self.setting.option or self.name.replace("_", "-")

    def read(self, value: Any) -> Any:
        """Parses a value from a form, the API or a text.

        Raises `FtlabError` with the label, the value and the rule. Bounds of numbers and valid
        choices are checked by `problems`, not here.
        """
        setting = self.setting
        if setting.parse is not None:
            return setting.parse(value)
        if self.kind == "text":
            if not isinstance(value, str | None):
                raise FtlabError(f"{setting.label}: {value} is no text; put it in quotes.")
            return value or ""
        if setting.empty and is_empty(value):
            return None
        if self.kind == "choice":
            return value or self.default
        if self.kind == "switch":
            if value is None:
                return self.default
            if not isinstance(value, bool):
                raise FtlabError(
                    f"{setting.label} is '{str(value)[:40]}'; it must be true or false."
                )
            return value
        return read_number(setting.label, value, whole=self.kind == "whole")

    def written(self, value: Any) -> Any:
        """The inverse of `read`: the value for a field of the form."""
        if self.kind == "text":
            return self.shown(value) if value is not None else ""
        if self.setting.empty:
            return "" if value is None else repr(value)
        return list(value) if isinstance(value, tuple) else value

    def problems(self, value: Any) -> Iterator[str]:
        """An error message for each problem of the value: value, rule and fix."""
        setting = self.setting
        if value is None and setting.empty:
            return
        if setting.check is not None:
            yield from setting.check(value)
        elif setting.choices is not None:
            if not isinstance(value, str) or value not in setting.choices:
                yield f"{setting.label}: '{value}' is none of: {', '.join(setting.choices)}."
        elif self.kind == "text":
            if isinstance(value, str) and len(value) > setting.high:
                most = plain_number(setting.high)
                yield f"{setting.label} has {len(value):,} characters; at most {most} are read."
        elif self.kind in ("whole", "real"):
            over = value > setting.low if setting.above else value >= setting.low
            if not (math.isfinite(value) and over and value <= setting.high):
                yield f"{setting.label} is {plain_number(value)}; it must {self._rule()}."

    def _rule(self) -> str:
        setting = self.setting
        low, high = plain_number(setting.low), plain_number(setting.high)
        rule = f"be above {low} and at most {high}"
        if not setting.above:
            rule = f"lie between {low} and {high}"
        return f"{rule}, or be left empty ({setting.empty})" if setting.empty else rule

    def shown(self, value: Any) -> str:
        """The value for display, as in "AdamW (torch, fused)", "1,000 steps" or "on"."""
        setting = self.setting
        if value is None:
            return setting.empty
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return ", ".join(str((setting.choices or {}).get(item, item)) for item in value)
        if self.kind in ("choice", "text"):
            return (setting.choices or {}).get(value) or str(value)
        number = plain_number(value)
        return f"{number} {setting.unit}{'' if value == 1 else 's'}" if setting.unit else number


def fields_of(settings: type) -> Mapping[str, Field]:
    """The settings of a frozen dataclass by name, in field order; other fields are left out."""
    return _fields_of(settings)


@cache
def _fields_of(settings: type) -> Mapping[str, Field]:
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for field in fields(settings):
        described = [note for note in get_args(hints[field.name]) if isinstance(note, Setting)]
        if described:
            kind = _kind(get_args(hints[field.name])[0])
            found[field.name] = Field(field.name, kind, field.default, described[0])
    return found


def _kind(annotation: Any) -> Kind:
    """The kind of an annotated type; `| None` is ignored."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return "names" if get_origin(get_args(annotation)[0]) is Literal else "text"
    if any(get_origin(part) is Literal for part in get_args(annotation)):
        return "choice"
    for kind, of in (("switch", bool), ("whole", int), ("real", float)):
        if annotation is of or of in get_args(annotation):
            return kind  # type: ignore[return-value]  # a literal of the table above
    return "text"


def read_settings(
    settings: type, values: Mapping[str, Any], errors: list[FieldError], prefix: str = ""
) -> dict[str, Any]:
    """Parses the settings of a form found in `values`; returns them by name.

    `prefix` precedes the names in `values` and in errors. A value that cannot be parsed is left out
    and added to `errors`.
    """
    read = {}
    for name, field in fields_of(settings).items():
        if not field.setting.is_on_form or prefix + name not in values:
            continue
        try:
            read[name] = field.read(values[prefix + name])
        except FtlabError as error:
            errors.append(FieldError(prefix + name, str(error)))
    return read


def errors_in(settings: Any, prefix: str = "") -> list[FieldError]:
    """An error for each problem of an instance's settings; `prefix` as in `read_settings`."""
    return [
        FieldError(prefix + name, sentence)
        for name, field in fields_of(type(settings)).items()
        for sentence in field.problems(getattr(settings, name))
    ]


def read_number(label: str, value: Any, *, whole: bool) -> float:
    """Parses a finite number; raises `FtlabError` with the label, the value and the rule."""
    word = "a whole number" if whole else "a number"
    if is_empty(value):
        raise FtlabError(f"{label} is empty; it must be {word}.")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number != int(number)):
        raise FtlabError(f"{label} is '{str(value)[:40]}'; it must be {word}.")
    return int(number) if whole else number


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def plain_number(value: float) -> str:
    """1000000 -> "1,000,000"; 0.5 -> "0.5"."""
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) else f"{value:g}"
