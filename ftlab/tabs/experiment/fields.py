"""The fields of the experiment's form, by name, and where their errors are shown.

A field's name is the one that `ftlab.tabs.experiment.request` reads and that a `FieldError`
carries: `settings.steps`, `seeds`, `lora.r`. A slot is the place beside a group of fields that
holds the sentences on whichever of them are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.jobs.inputs import DEMO_REFUSAL
from ftlab.jobs.launch import plan_sweep
from ftlab.jobs.peft_check import FIELD as PEFT_JSON
from ftlab.methods.by_hand import PEFT
from ftlab.methods.registry import METHODS
from ftlab.records.comparability import Scored, scored_words
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import Field, Setting, fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.experiment.request import one_sentence
from ftlab.tabs.widgets import H, escape, field_error, live, plural, swatch

METHOD_SETTINGS = "method_settings"
"""Name of the component that holds the settings of all methods: a dict of field name to value."""


@dataclass
class Form:
    """Components and error slots, filled while the page is built."""

    components: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, gr.HTML] = field(default_factory=dict)

    def add(self, name: str, component: Any, *args: Any, **kw: Any) -> Any:
        """Makes the component, live and under its own element id, and keeps it by name."""
        made = live(component, *args, elem_id=element_id(name), **kw)
        self.components[name] = made
        return made

    def number(self, name: str, label: str, value: float | None, **kw: Any) -> gr.Number:
        """A number without limits of gradio's own, so that each wrong value gets our sentence."""
        kw.setdefault("min_width", 58)
        number: gr.Number = self.add(name, gr.Number, value, label=label, **kw)
        return number

    def setting(self, name: str, described: Field) -> Any:
        """The component of a setting, without limits of gradio's own, so that each wrong value
        gets our sentence."""
        setting, value = described.setting, described.default
        offered, sentences = _offered(setting)
        kind, own = _component(described, offered)
        if setting.narrow:
            own |= {"min_width": 58}
        elif setting.help or sentences:
            hint = setting.help[:1].upper() + setting.help[1:]
            own |= {"info": " ".join([f"{hint}.", *sentences]) if sentences else hint}
        value = list(value) if isinstance(value, tuple) else value
        return self.add(name, kind, value=value, label=described.label, **own)

    def slot(self, name: str) -> gr.HTML:
        """The place for errors beside the fields that were added last."""
        self.slots[name] = H("")
        return self.slots[name]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Values in the order of the components, by name; the methods' own settings among them."""
        values = dict(zip(self.components, given, strict=True))
        return values | dict(values.pop(METHOD_SETTINGS, None) or {})

    def slot_html(self, errors: Iterable[FieldError]) -> list[str]:
        """One string a slot, in the order of the slots; empty where nothing is wrong."""
        found: dict[str, list[FieldError]] = {}
        for error in errors:
            found.setdefault(slot_of(error.field), []).append(error)
        return [_slot_html(found.get(name, [])) for name in self.slots]


def _offered(setting: Setting) -> tuple[list[tuple[str, Any]], list[str]]:
    """(label, value) of the choices that can be made here, and why the others cannot."""
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
    """The kind of component for a kind of setting, and what only that kind has."""
    if described.setting.empty:  # gradio turns an empty number into 0 when it is drawn
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


def slot_of(name: str) -> str:
    """The slot beside which a field stands."""
    head, _, rest = name.partition(".")
    if name.startswith(PREFIX):
        is_main = fields_of(TrainingSettings)[rest].setting.place == "main"
        return "settings" if is_main else "advanced"
    if head in METHODS:
        return "methods"
    elsewhere = {"seeds": "settings", "variants": "methods"}
    elsewhere |= dict.fromkeys(("dtype_policy", "device"), "advanced")
    return (elsewhere | {PEFT.id: PEFT_JSON}).get(head, head)


def _slot_html(errors: Sequence[FieldError]) -> str:
    """The sentences, and a red frame around the fields that they are about."""
    if not errors:
        return ""
    fields = ", ".join(
        f"#{element_id(error.field)} :is(input, textarea, select, .wrap)" for error in errors
    )
    frame = f"<style>{fields} {{ border-color:var(--bad) !important }}</style>"
    return frame + field_error(dict.fromkeys(error.message for error in errors))


_MOST_SWATCHES = 12

ASKING_HUB = '<p class="sum">Asking the Hub …</p>'
"""While it is found out whether what is named there can be had."""


def advanced_summary(request: SweepRequest) -> str:
    """The accordion's label: the settings that differ least often, at their current values."""
    settings = request.settings
    rate = "each method's own" if settings.learning_rate is None else f"{settings.learning_rate:g}"
    parts = [
        {"adamw": "AdamW"}.get(settings.optimizer, settings.optimizer),
        f"learning rate {rate}",
        f"{settings.schedule}, warm-up {settings.warmup_steps}",
        request.dtype_policy,
        f"device {request.device}",
    ]
    if settings.accumulation != 1:
        parts.append(f"accumulation {settings.accumulation}")
    if settings.gradient_checkpointing:
        parts.append("checkpointing")
    return "Advanced: " + ", ".join(parts)


def launch_line(
    request: SweepRequest,
    errors: Sequence[FieldError],
    reasons: Mapping[str, str] | None = None,
    scored: Scored | None = None,
) -> str:
    """What the press on Launch will do, or the sentence that keeps it from doing so.

    `reasons` says by method why one does not go with the model: a row then says so, and no more.
    `scored` is how many examples are scored; `None` where the data are not known yet.
    """
    if errors:
        return f'<p class="sum wrong" role="alert">{escape(one_sentence(errors))}</p>'
    specs = plan_sweep(request)
    bases = sum(spec.is_base for spec in specs)
    settings = request.settings
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
        '<span class="pred roomy" data-most hidden></span></p>'
    )


def _scored(request: SweepRequest, scored: Scored | None) -> str:
    """As in "6 held-out examples scored"; "up to 64" where nobody knows how many there are."""
    if scored is None:
        return f"up to {plural(request.settings.eval_examples, 'held-out example')} scored"
    count = f"{plural(scored.count, 'held-out example')} scored"
    return (
        f'<span title="{escape(scored_words(scored))}">{count}</span>' if scored.reason else count
    )


def blocks_launch(errors: Sequence[FieldError]) -> bool:
    """Whether Launch waits for a field to be put right; what the form cannot say anything about
    (a full disk) may be over at the next press."""
    return any(error.field for error in errors)


def first_sentence(error: FtlabError) -> str:
    """What is said of a refused launch: of several wrong fields the first."""
    if isinstance(error, InvalidRequest) and error.errors:
        return one_sentence(error.errors)
    return str(error)


def demo_line() -> str:
    """What stands beside the button where nothing is launched."""
    return f'<p class="sum">{escape(DEMO_REFUSAL)}</p>'


def launch_button(request: SweepRequest, errors: Sequence[FieldError]) -> str:
    """The button's words."""
    if errors:
        return "Launch"
    return f"Launch {plural(len(request.variants) * len(request.seeds), 'run')}"
