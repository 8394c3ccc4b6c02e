"""The fields of the experiment form, by name, and the places for their errors.

Field names are those that `ftlab.tabs.experiment.request` reads and that a `FieldError` contains:
`settings.steps`, `seeds`, `lora.r`. A slot is the place beside a group of fields that shows their
error messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import gradio as gr

from ftlab.basics.errors import FieldError
from ftlab.jobs.inputs import DEMO_REFUSAL, Inputs
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.families.full import FULL
from ftlab.records.comparability import Scored, scored_words
from ftlab.records.power import promise_of
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run
from ftlab.settings.schema import Field, Setting
from ftlab.tabs.experiment.request import one_sentence
from ftlab.tabs.widgets import H, escape, field_error, live, note_html, plural, swatch

METHOD_SETTINGS = "method_settings"
"""Name of the component with the settings of all methods: a dict from field name to value."""


@dataclass
class Form:
    """Components and error slots, registered while the page is built."""

    components: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, gr.HTML] = field(default_factory=dict)
    _slot_of: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, component: Any, *args: Any, **kw: Any) -> Any:
        """Creates a live component with its own element id and registers it by name."""
        made = live(component, *args, elem_id=element_id(name), **kw)
        self.components[name] = made
        return made

    def setting(self, name: str, described: Field, **more: Any) -> Any:
        """Adds the component of a setting, without gradio's limits, so that our error messages are
        shown. `more` is for the component; with choices it is a dropdown."""
        setting = described.setting
        offered, sentences = _offered(setting)
        kind, own = (gr.Dropdown, {}) if "choices" in more else _component(described, offered)
        if setting.narrow:
            own |= {"min_width": 58}
        elif setting.help or sentences:
            hint = setting.help[:1].upper() + setting.help[1:]
            own |= {"info": " ".join([f"{hint}.", *sentences]) if sentences else hint}
        usual = {"value": described.written(described.default), "label": described.label}
        return self.add(name, kind, **usual | own | more)

    def settings(
        self, described: Mapping[str, Field], more: Mapping[str, Mapping[str, Any]] = {}
    ) -> None:
        """Adds settings by name: narrow ones three per row, each other one in its own row.

        `more` is as in `setting`, by name.
        """
        for is_narrow, group in groupby(described, lambda name: described[name].setting.narrow):
            names, size = list(group), 3 if is_narrow else 1
            for start in range(0, len(names), size):
                with gr.Row(elem_classes="ft-quad" if is_narrow else None):
                    for name in names[start : start + size]:
                        self.setting(name, described[name], **more.get(name, {}))

    def slot(self, name: str, *others: str) -> gr.HTML:
        """Adds a place for the errors of the fields since the last slot, and of `others`."""
        self._slot_of |= dict.fromkeys((*self.components, *others), name) | self._slot_of
        self.slots[name] = H("")
        return self.slots[name]

    def slot_of(self, name: str) -> str:
        """The slot of a field; of "task.id" or "lora.r" the slot of "task" or "lora"."""
        return self._slot_of.get(name) or self._slot_of.get(name.partition(".")[0], "")

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Maps values in component order to field names, with the methods' settings merged in."""
        values = dict(zip(self.components, given, strict=True))
        return values | dict(values.pop(METHOD_SETTINGS, None) or {})

    def slot_html(self, errors: Iterable[FieldError]) -> list[str]:
        """One HTML string per slot, in slot order; empty if there is no error."""
        found: dict[str, list[FieldError]] = {}
        for error in errors:
            found.setdefault(self.slot_of(error.field), []).append(error)
        return [_slot_html(found.get(name, [])) for name in self.slots]


def _offered(setting: Setting) -> tuple[list[tuple[str, Any]], list[str]]:
    """(label, value) of the choices available on this machine, and why the others are not."""
    offered, sentences = [], []
    for value, label in (setting.choices or {}).items():
        wrong = list(setting.check((value,))) if setting.check else []
        sentences += wrong
        if not wrong:
            offered.append((label, value))
    return offered, sentences


def _component(
    described: Field, choices: Sequence[tuple[str, Any]]
) -> tuple[type[Any], dict[str, Any]]:
    """The component class for a setting, and the arguments specific to that class."""
    if described.setting.empty or described.kind == "text":  # gradio shows an empty number as 0
        return gr.Textbox, {"placeholder": described.setting.empty, "max_lines": 1}
    if described.kind == "choice":
        return gr.Dropdown, {"choices": choices}
    if described.kind == "names":
        return gr.CheckboxGroup, {"choices": choices}
    if described.kind == "switch":
        return gr.Checkbox, {}
    return gr.Number, {} if described.kind == "whole" else {"step": 0.01}


def element_id(name: str) -> str:
    """`settings.steps` -> `f-settings-steps`."""
    return "f-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _slot_html(errors: Sequence[FieldError]) -> str:
    """The error messages, and a style that draws a red frame around their fields."""
    if not errors:
        return ""
    fields = ", ".join(
        f"#{element_id(error.field)} :is(input, textarea, select, .wrap)" for error in errors
    )
    frame = f"<style>{fields} {{ border-color:var(--bad) !important }}</style>"
    return frame + field_error(dict.fromkeys(error.message for error in errors))


_MOST_SWATCHES = 12

_LACKS = "Without full fine-tuning, Compare and the card cannot say what is saved."

ASKING_HUB = '<p class="sum">Asking the Hub …</p>'
"""Shown while the app checks whether the model or data set is available on the Hub."""


def advanced_summary(request: SweepRequest) -> str:
    """The accordion's label: the rarely changed settings with their current values."""
    settings = request.settings
    rate = "each method's own" if settings.learning_rate is None else f"{settings.learning_rate:g}"
    parts = [
        "AdamW" if settings.optimizer == "adamw" else settings.optimizer,
        f"learning rate {rate}",
        f"{settings.schedule}, warm-up {settings.warmup_steps}",
        request.dtype_policy,
        f"device {request.device}",
    ]
    if settings.accumulation != 1:
        parts.append(f"accumulation {settings.accumulation}")
    if settings.shard != 1:
        parts.append(f"each run over {settings.shard} GPUs")
    if settings.gradient_checkpointing:
        parts.append("checkpointing")
    if settings.measure_answering:
        parts.append("measures answering")
    return "Advanced: " + ", ".join(parts)


def launch_line(
    request: SweepRequest,
    errors: Sequence[FieldError],
    reasons: Mapping[str, str] | None = None,
    scored: Scored | None = None,
) -> str:
    """Summary of what Launch will do, or the error that prevents it.

    `reasons` gives, by method, why it is not applicable to the model; these are only counted.
    `scored` is the number of scored examples; `None` if the data are not known yet.
    """
    if errors:
        return f'<p class="sum wrong" role="alert">{escape(one_sentence(errors))}</p>'
    specs, settings = plan_sweep(request), request.settings
    bases = sum(spec.is_base for spec in specs)
    batch = settings.batch_size * settings.accumulation
    colours = [swatch(variant.method) for variant in request.variants]
    more = len(colours) - _MOST_SWATCHES
    seeds = ", ".join(map(str, request.seeds))
    lost = [variant for variant in request.variants if variant.method in (reasons or {})]
    idle = f"<span>{len(lost)} not applicable here</span>" if lost else ""
    return (
        f'<p class="sum"><b>{plural(len(specs) - bases, "run")} + {plural(bases, "base run")}</b>'
        f'<span class="sws roomy">{"".join(colours[:_MOST_SWATCHES])}'
        f"{f' +{more}' if more > 0 else ''}</span>"
        f"<span>{plural(settings.steps, 'step')} of {plural(batch, 'example')}</span>"
        f'<span class="roomy">same examples in the same order, {_scored(request, scored)}</span>'
        f"<span>seed{'s' if len(request.seeds) > 1 else ''} {seeds}</span>{idle}"
        '<span class="pred" data-time hidden></span>'
        f'<span class="pred roomy" data-most hidden></span></p>{_without_full(request)}'
    )


def _without_full(request: SweepRequest) -> str:
    """What Compare will lack if full fine-tuning is not ticked, and the button that ticks it.

    The browser replaces both where full fine-tuning is predicted not to fit (`Costs.full`).
    """
    if any(variant.method == FULL.id for variant in request.variants):
        return ""
    button = (
        f'<button type="button" class="ghost" data-add="{FULL.id}" '
        'aria-label="Add full fine-tuning">Add it</button>'
    )
    return f'<p class="lacks" data-words="{_LACKS}"><span>{_LACKS}</span>{button}</p>'


def _scored(request: SweepRequest, scored: Scored | None) -> str:
    """E.g. "6 test examples scored"; "up to 64 ..." if the number is unknown."""
    if scored is None:
        return f"up to {plural(request.settings.eval_examples, 'test example')} scored"
    count = f"{plural(scored.count, 'test example')} scored"
    return (
        f'<span title="{escape(scored_words(scored))}">{count}</span>' if scored.reason else count
    )


def scored_html(request: SweepRequest, found: Inputs, runs: Iterable[Run]) -> str:
    """HTML below the number of test examples: how many are scored if fewer, and the smallest
    difference in score that they can show, by `runs` of the task if there are any."""
    note, promise = note_html(found.words), promise_of(request, found.scored, runs)
    if promise is None:
        return note
    return f'{note}<p class="meta" title="{escape(promise.source)}">{escape(promise.words)}</p>'


def blocks_launch(errors: Sequence[FieldError]) -> bool:
    """Whether an invalid field disables Launch. An error without a field (a full disk) does not: it
    may be gone at the next press."""
    return any(error.field for error in errors)


def demo_line() -> str:
    """The text beside the button on a demo server, where launching is disabled."""
    return f'<p class="sum">{escape(DEMO_REFUSAL)}</p>'


def launch_button(request: SweepRequest, errors: Sequence[FieldError]) -> str:
    """The label of the Launch button."""
    if errors:
        return "Launch"
    return f"Launch {plural(len(request.variants) * len(request.seeds), 'run')}"
