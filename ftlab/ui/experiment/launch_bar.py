"""The launch bar's line, and the labels of what is folded: plain functions that give text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlab.access import DEMO_CLOSED
from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.runs.scored import Scored, scored_words
from ftlab.runs.spec import SweepRequest
from ftlab.runs.sweep import plan_sweep
from ftlab.ui.experiment.request import one_sentence
from ftlab.ui.html import escape, plural, swatch

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
    return f'<p class="sum">{escape(DEMO_CLOSED)}</p>'


def launch_button(request: SweepRequest, errors: Sequence[FieldError]) -> str:
    """The button's words."""
    if errors:
        return "Launch"
    return f"Launch {plural(len(request.variants) * len(request.seeds), 'run')}"
