"""What was held equal between the runs of a sweep, what differs, and what each method sets.

Page and report show the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import escape

from ftlab.html import chip
from ftlab.runs.comparable import Likeness, likeness_of_runs
from ftlab.runs.store import Run
from ftlab.words import rate_name

IMPORTED = (
    "Imported results of others: not measured here and not held to the same conditions as your runs"
)


def likeness_chip(found: Likeness) -> str:
    """The verdict as a chip, with the values that differ on hover; empty without a run."""
    return chip(found.verdict, f"{found.kind} like", found.sentence) if found.runs else ""


def fairness_html(runs: Sequence[Run]) -> str:
    """What the runs that are done share, as HTML, everything escaped; empty if none is done."""
    done = [run for run in runs if run.status == "done" and not run.spec.is_base]
    if not done:
        return ""
    found = likeness_of_runs(done)
    unlike = "; ".join(map(str, found.unlike))
    parts = [
        ("", "Same", ", ".join(found.same)),
        (' class="differs"', "Differs", unlike),
        ("", "Not recorded", ", ".join(found.unknown)),
        ("", "Set by method", _by_method(done)),
    ]
    words = " ".join(f"<b{style}>{name}</b> {escape(text)}." for style, name, text in parts if text)
    return f'<div class="fair">{likeness_chip(found)}<p class="meta">{words}</p></div>'


def _by_method(done: Sequence[Run]) -> str:
    rates = {run.spec.label: rate_name(run.spec.learning_rate) for run in done}
    if len(rates) > 1 and len(set(rates.values())) == 1:
        words = f"nothing else; learning rate {next(iter(rates.values()))} for all"
    else:
        words = f"learning rate ({', '.join(f'{name} {rate}' for name, rate in rates.items())})"
    held = {
        run.spec.label: f"{run.spec.label} on a base held in {run.spec.base_precision}"
        for run in done
        if run.spec.base_precision and f"on {run.spec.base_precision}" not in run.spec.label
    }
    return "; ".join([words, *held.values()])
