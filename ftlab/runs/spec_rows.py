"""A run's settings as names and values for people: the panel and the model card show them."""

from __future__ import annotations

from typing import Any

from ftlab.methods.registry import label_of
from ftlab.models.reference import model_label
from ftlab.runs.checkpoints import checkpoint_interval
from ftlab.runs.rates import rate_words
from ftlab.runs.spec import RunSpec
from ftlab.settings.schema import fields_of
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.units import format_bytes
from ftlab.words import plural


def spec_rows(spec: RunSpec, scored: int | None = None) -> list[tuple[str, Any]]:
    """Method, hyperparameters and training settings, by the words that the form uses.

    `scored` is how many examples were scored, where that is known.
    """
    s = spec.settings
    kept = checkpoint_interval(s) if spec.variant else 0
    own = spec.variant.values() if spec.variant else {}
    return [
        ("Method", label_of(spec.method)),
        *own.items(),
        ("Learning rate", rate_words(spec)),
        *(
            (described.setting.label, described.shown(getattr(s, name)))
            for name, described in fields_of(TrainingSettings).items()
            if described.setting.same
        ),
        _measured_on(s, scored),
        *([("Evaluated between", f"every {s.eval_every} steps")] if s.eval_every else []),
        *([("Kept", f"every {kept} steps, to be resumed")] if kept else []),
        ("Dtype", f"{spec.dtype_policy}: {DTYPE_POLICIES.get(spec.dtype_policy, '')}"),
        ("Base held in", spec.base_precision or "the dtype policy's own"),
        ("Model", model_label(spec.model)),
        ("Task", f"{spec.task.label} ({spec.task.kind})"),
        ("Device", spec.device),
        *([("Memory limit", format_bytes(spec.memory_limit))] if spec.memory_limit else []),
        ("Seed", spec.seed),
    ]


def _measured_on(settings: TrainingSettings, scored: int | None) -> tuple[str, str]:
    name = "Held out" if settings.eval_split == "held_out" else "Tuning split"
    alone = "" if settings.eval_answers else ", their loss alone"
    asked = settings.eval_examples
    if scored is None or scored == asked:
        return name, f"{asked} examples{alone}"
    return name, f"{plural(scored, 'example')} ({asked:,} were asked for){alone}"
