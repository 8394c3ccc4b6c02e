"""The table of methods, as HTML: the few to start with, then the others family by family.

Ticks and settings are the browser's (`assets/methods.js`); the server is told of them and never
writes them back, so no answer that comes late can undo what somebody did meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ftlab.methods.capabilities import why_not_offered
from ftlab.methods.rates import TUNED_MODEL
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import FAMILIES, Hyperparameter, MethodSpec, Value
from ftlab.methods.variant import BASE, LEARNING_RATE
from ftlab.ui.experiment.fields import element_id
from ftlab.ui.html import escape, plural, swatch
from ftlab.units import DASH
from ftlab.words import rate_name

_AUTHORS_AND_YEAR = re.compile(r"^.*?\b\d{4}")
_BASE_NAMES: dict[str, str] = {"nf4": "4-bit NF4", "int8": "8-bit"}
_MOST_TEXT = 2000  # of one setting that the browser sends
_COLUMNS = ("Trains", "Rate", "Peak memory", "File", "This device", "Paper")
_WIDTHS = ("count", "rate", "peak", "file", "fit", "paper", "own")


def method_table(ticked: Collection[str], values: Mapping[str, Any] | None = None) -> str:
    """Every method with its tick, and its settings folded below it.

    `values` are settings by field name, as in `lora.r`; what is not there stands at its default.
    """
    own = values or {}
    rest = [method for method in METHODS.values() if method.id not in CORE]
    families = [
        _family(sentence, family, [m for m in rest if m.family == family], ticked, own)
        for family, sentence in FAMILIES.items()
    ]
    return (
        f'<div class="pick">{_tools()}<h4 class="start">Start with these</h4>'
        f"{_table([METHODS[method_id] for method_id in CORE], ticked, own, heads=True)}"
        f'<div class="families">{"".join(families)}</div>'
        '<p class="meta none" role="status" hidden>No method has these words.</p></div>'
    )


def known_ticks(ticks: Any) -> list[str]:
    """What the browser says is ticked, in the order of the registry."""
    given = ticks if isinstance(ticks, list) else []
    found = {tick for tick in given if isinstance(tick, str)}
    return [method_id for method_id in METHODS if method_id in found]


def known_settings(settings: Any) -> dict[str, str]:
    """What the browser says is set, by field name; what is no field of a method is dropped."""
    if not isinstance(settings, Mapping):
        return {}
    return {
        name: value[:_MOST_TEXT]
        for name, value in settings.items()
        if isinstance(value, str) and name in FIELDS
    }


def range_of(parameter: Hyperparameter) -> str:
    """The help text with the range in which the value makes sense."""
    if parameter.kind == "text" or parameter.minimum is None or parameter.maximum is None:
        return parameter.help
    return f"{parameter.help} {parameter.minimum:g} to {parameter.maximum:g}."


def has_base_choice(method: MethodSpec) -> bool:
    """Whether it can be laid over a base in any precision; some have theirs by definition."""
    return method.is_adapter and method.base_precision is None


def _fields() -> Iterable[str]:
    for method in METHODS.values():
        names = (*method.defaults(), LEARNING_RATE, *([BASE] if has_base_choice(method) else []))
        yield from (f"{method.id}.{name}" for name in names)


FIELDS = frozenset(_fields())
"""Every setting that a method has, as `lora.r`."""


def _tools() -> str:
    several = (("all", "All"), ("core", "The four"), ("none", "None"))
    buttons = "".join(
        f'<button type="button" class="ghost" data-tick="{which}" '
        f'aria-label="Tick {label.lower()}">{label}</button>'
        for which, label in several
    )
    return (
        '<div class="tools"><input type="search" data-find aria-label="Find a method" '
        f'placeholder="Find one of {len(METHODS)} methods" autocomplete="off">'
        f'<span class="grow"></span><span class="mute">Tick</span>{buttons}</div>'
    )


def _family(
    sentence: str,
    family: str,
    methods: list[MethodSpec],
    ticked: Collection[str],
    values: Mapping[str, Any],
) -> str:
    if not methods:
        return ""
    is_open = " open" if any(method.id in ticked for method in methods) else ""
    names = escape(", ".join(method.short_label for method in methods))
    return (
        f'<details class="family"{is_open}><summary><b>{escape(family.capitalize())}</b>'
        f"<span>{escape(sentence)}</span><em>{names}</em><small>{plural(len(methods), 'method')}"
        f"<i data-on></i></small></summary>{_table(methods, ticked, values, heads=False)}</details>"
    )


def _table(
    methods: Iterable[MethodSpec],
    ticked: Collection[str],
    values: Mapping[str, Any],
    heads: bool,
) -> str:
    """Heads that are not shown are still read out."""
    hide = "" if heads else ' class="vh"'
    columns = "".join(f"<th><span{hide}>{name}</span></th>" for name in _COLUMNS)
    widths = "".join(f'<col class="{name}">' for name in _WIDTHS)
    rows = "".join(_rows(method, method.id in ticked, values) for method in methods)
    return (
        f'<table class="t"><colgroup><col>{widths}</colgroup><thead{"" if heads else hide}><tr>'
        f'<th class="l"><span{hide}>Method</span></th>{columns}'
        f'<th><span class="vh">Settings</span></th></tr></thead>{rows}</table>'
    )


def _rows(method: MethodSpec, on: bool, values: Mapping[str, Any]) -> str:
    """The method's line, and below it its settings, which the line's button shows."""
    paper, label = escape(method.paper.title), escape(method.label)
    found = _AUTHORS_AND_YEAR.match(method.paper.title)
    short = escape(found.group() if found else method.paper.title)
    refused = why_not_offered(method.id)
    state = " disabled" if refused else " checked" if on else ""
    core = " data-core" if method.id in CORE else ""
    fields = f"set-{method.id}"
    return (
        f'<tbody data-method="{method.id}"><tr><td class="l">'
        f'<label title="{escape(method.summary)}">'
        f'<input type="checkbox" value="{method.id}"{core}{state}>'
        f"{swatch(method.id)}<b>{label}</b><i data-changed></i>"
        f"<em>{escape(method.summary)}</em></label>"
        f'<p class="why">{f"Not offered: {escape(refused)}" if refused else ""}</p>'
        '<p class="why" data-short></p><p class="why" data-reach></p></td>'
        f"<td data-count>{DASH}</td>"
        f'<td data-rate title="{escape(_rate_hint(method))}">{rate_name(method.learning_rate)}</td>'
        f"<td data-peak>{DASH}</td>"
        f"<td data-file>{DASH}</td><td data-fit></td>"
        f'<td><a href="{escape(method.paper.url)}" target="_blank" rel="noopener" '
        f'title="{paper}">{short}</a></td>'
        f'<td class="s"><button type="button" class="ghost" aria-expanded="false" '
        f'aria-controls="{fields}" aria-label="Settings of {label}">Settings</button></td></tr>'
        f'<tr class="own" id="{fields}" hidden><td class="l" colspan="8">'
        f'<div class="fields">{_all_fields(method, values)}</div></td></tr></tbody>'
    )


def _rate_hint(method: MethodSpec) -> str:
    """What the rate is on the model that it was tuned on, and how it goes with the size."""
    rule = method.rate_rule
    return (
        f"Learning rate: {rate_name(method.learning_rate)} on {TUNED_MODEL}, where it was tuned. "
        f"On other models it {rule.words} ({rule.source})."
    )


def _all_fields(method: MethodSpec, values: Mapping[str, Any]) -> str:
    fields = [
        _field(f"{method.id}.{p.name}", p.label, range_of(p), _box(method, p, values))
        for p in method.hyperparameters
    ]
    name = f"{method.id}.{LEARNING_RATE}"
    rate = rate_name(method.learning_rate)
    box = _text_box(name, "", values, hint=rate)
    fields.append(_field(name, "Learning rate", f"Empty: the sweep's, else {rate}.", box))
    if has_base_choice(method):
        name = f"{method.id}.{BASE}"
        box = _select(name, {"": "as dtype policy", **_BASE_NAMES}, "", values)
        fields.append(_field(name, "Frozen base", "In how many bits it is held.", box))
    return "".join(fields)


def _field(name: str, label: str, help_: str, box: str) -> str:
    wide = ' class="wide"' if "data-text" in box else ""
    return (
        f'<div id="{element_id(name)}"{wide}><label><span>{escape(label)}</span>{box}</label>'
        f'<small id="{element_id(name)}-help">{escape(help_)}</small></div>'
    )


def _box(method: MethodSpec, parameter: Hyperparameter, values: Mapping[str, Any]) -> str:
    name = f"{method.id}.{parameter.name}"
    if parameter.kind == "choice":
        return _select(name, {c: c for c in parameter.choices}, parameter.default, values)
    return _text_box(name, parameter.default, values, is_number=parameter.kind != "text")


def _select(
    name: str, choices: Mapping[str, str], default: Value, values: Mapping[str, Any]
) -> str:
    value = values.get(name, default)
    options = "".join(
        f'<option value="{escape(choice)}"{" selected" if choice == value else ""}>'
        f"{escape(label)}</option>"
        for choice, label in choices.items()
    )
    return f"<select {_about(name, default)}>{options}</select>"


def _text_box(
    name: str, default: Value, values: Mapping[str, Any], is_number: bool = True, hint: str = ""
) -> str:
    """For numbers too, so that each wrong one gets a sentence of ours."""
    value = _typed(values.get(name, default))
    kind = 'inputmode="decimal"' if is_number else "data-text"
    return (
        f'<input type="text" {kind} autocomplete="off" {_about(name, default)} '
        f'value="{escape(value)}" placeholder="{escape(hint)}">'
    )


def _about(name: str, default: Value) -> str:
    return (
        f'data-name="{name}" data-default="{escape(_typed(default))}" '
        f'aria-describedby="{element_id(name)}-help"'
    )


def _typed(value: Any) -> str:
    """A value as somebody would type it: 0.0 is "0"."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
