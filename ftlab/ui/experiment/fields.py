"""The fields of the experiment's form, by name, and where their errors are shown.

A field's name is the one that `ftlab.ui.experiment.request` reads and that a `FieldError` carries:
`settings.steps`, `seeds`, `lora.r`. A slot is the place beside a group of fields that holds the
sentences on whichever of them are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ftlab.errors import FieldError
from ftlab.methods.by_hand import PEFT
from ftlab.methods.registry import METHODS
from ftlab.runs.peft_check import FIELD as PEFT_JSON
from ftlab.settings.schema import Field, Setting, fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.ui.html import H, field_error, live

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
