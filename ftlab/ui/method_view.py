"""The table of methods, and the launch bar's line: plain functions that give HTML."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ftlab.errors import FieldError
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import Hyperparameter, MethodSpec
from ftlab.runs.spec import SweepRequest
from ftlab.runs.sweep import plan_sweep
from ftlab.ui.html import escape, plural, swatch
from ftlab.ui.request import one_sentence

_AUTHORS_AND_YEAR = re.compile(r"^.*?\b\d{4}")


def method_table(ticked: Collection[str]) -> str:
    """One row a method: tick, colour, name, one sentence, base, learning rate and paper."""
    rows = "".join(_row(method, method.id in ticked) for method in METHODS.values())
    return (
        '<div class="scroll"><table class="t pick"><thead><tr><th class="l">Method</th>'
        "<th>Frozen base</th><th>Learning rate</th><th>Paper</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(method: MethodSpec, on: bool) -> str:
    paper = escape(method.paper.title)
    found = _AUTHORS_AND_YEAR.match(method.paper.title)
    short = escape(found.group() if found else method.paper.title)
    return (
        f'<tr><td class="l"><label title="{escape(method.summary)}">'
        f'<input type="checkbox" value="{method.id}"{" checked" if on else ""}>'
        f"{swatch(method.id)}<b>{escape(method.label)}</b>"
        f"<em>{escape(method.summary)}</em></label></td>"
        f"<td>{base_of(method)}</td><td>{method.learning_rate:g}</td>"
        f'<td><a href="{escape(method.paper.url)}" target="_blank" rel="noopener" '
        f'title="{paper}">{short}</a></td></tr>'
    )


def base_of(method: MethodSpec) -> str:
    """How the weights that do not learn are held."""
    if not method.is_adapter:
        return '<span class="mute">none: all learn</span>'
    return {"nf4": "4-bit NF4", "int8": "8-bit"}.get(method.base_precision or "", "as dtype policy")


def range_of(parameter: Hyperparameter) -> str:
    """The help text with the range in which the value makes sense."""
    if parameter.minimum is None or parameter.maximum is None:
        return parameter.help
    return f"{parameter.help} {parameter.minimum:g} to {parameter.maximum:g}."


def hyperparameter_summary(request: SweepRequest) -> str:
    """The accordion's label: what each variant of the sweep is set to."""
    parts = []
    for variant in request.variants:
        if variant.method not in METHODS:
            continue
        rate = variant.learning_rate or request.settings.learning_rate or variant.spec.learning_rate
        values = [
            value if isinstance(value, str) else f"{name} {value:g}"
            for name, value in variant.values().items()
        ]
        parts.append(", ".join([f"{variant.spec.short_label} lr {rate:g}", *values]))
    return "Hyperparameters: " + ("; ".join(parts) if parts else "no method is ticked")


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


def launch_line(request: SweepRequest, errors: Sequence[FieldError]) -> str:
    """What the press on Launch will do, or the sentence that keeps it from doing so."""
    if errors:
        return f'<p class="sum wrong" role="alert">{escape(one_sentence(errors))}</p>'
    specs = plan_sweep(request)
    bases = sum(spec.is_base for spec in specs)
    settings = request.settings
    batch = settings.batch_size * settings.accumulation
    colours = "".join(swatch(variant.method) for variant in request.variants)
    seeds = ", ".join(map(str, request.seeds))
    return (
        f'<p class="sum"><b>{plural(len(specs) - bases, "run")} + {plural(bases, "base run")}</b>'
        f'<span class="sws roomy">{colours}</span>'
        f"<span>{plural(settings.steps, 'step')} of {plural(batch, 'example')}</span>"
        f'<span class="roomy">same examples in the same order, '
        f"{plural(settings.eval_examples, 'held-out example')} scored</span>"
        f"<span>seed{'s' if len(request.seeds) > 1 else ''} {seeds}</span></p>"
    )


def launch_button(request: SweepRequest, errors: Sequence[FieldError]) -> str:
    """The button's words."""
    if errors:
        return "Launch"
    return f"Launch {plural(len(request.variants) * len(request.seeds), 'run')}"
