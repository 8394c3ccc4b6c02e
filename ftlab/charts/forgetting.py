"""Gain in score against forgetting: the rise of the loss on unrelated text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.words import join_names
from ftlab.charts.drawing import GRID, empty_figure
from ftlab.charts.facts import VariantRuns, by_variant, left_out, unknown_spread
from ftlab.charts.points import name_in, scatter_figure, scatter_of
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, measured
from ftlab.records.differences import differences_of
from ftlab.records.metrics import METRICS

_GAIN, _FORGOT = METRICS["score_gain"], METRICS["general_loss_change"]
_NAMED = 6  # best variants that are named if there are too many
_MOST_NAMES = 4  # names in a sentence


def forgetting_figure(facts: Facts) -> go.Figure:
    """Each variant as a point: gain on x, forgetting on y; the best are at the lower right."""
    shown = scatter_of(facts.table, _GAIN, _FORGOT, more_y=[0.0])
    if shown is None:
        return empty_figure("no run has a gain and a loss on unrelated text", facts.height)
    fig = scatter_figure(shown, facts, _by_gain(shown.groups)[:_NAMED], [])
    zero = {"zeroline": True, "zerolinecolor": GRID, "zerolinewidth": 2}
    return fig.update_layout(xaxis=zero, yaxis=zero)


def forgetting_finding(facts: Facts) -> str:
    """Which variant gains most, which forgets least, and what seeds or intervals do not show."""
    rows = _drawn(facts).rows
    keys = [key for metric in (_GAIN, _FORGOT) for key in (metric.key, *metric.interval_keys)]
    groups = by_variant(rows, *keys)
    if not groups:
        return "No run has both a gain and a loss on unrelated text"
    best = _by_gain(groups)[0]
    words = f"{best.variant} {_gained(best, _score_name(rows))} and {_forgot(best)}"
    worse = [group.variant for group in groups if group.reach(_GAIN)[1] < 0]
    useful = [group for group in groups if group.variant not in worse]
    least = min(useful or groups, key=lambda group: group.mean(_FORGOT.key))
    if least is not best:
        words += f"; {least.variant} {_gained(least)} and {_forgot(least)}"
        forgot = differences_of(rows, _FORGOT.key).between(least.variant, best.variant)
        words += f", though {forgot.why}" if forgot.shown is False else ""
    if worse:
        who = join_names(worse) if len(worse) <= _MOST_NAMES else f"{len(worse)} variants"
        words += f"; {who} {'falls' if len(worse) == 1 else 'fall'} below the untouched model"
    return words + unknown_spread(groups)


def gain_words(table: pd.DataFrame, variant: str) -> str:
    """The gain of a variant, as in "+0.40 (+0.29 to +0.52)"; "" if it is unknown.

    In brackets: the range of the seeds, or the 95 % interval of a single run.
    """
    rows, _ = left_out(table[table["variant"] == variant], _GAIN.key)
    groups = by_variant(rows, _GAIN.key, *_GAIN.interval_keys)
    if not groups:
        return ""
    low, high = groups[0].reach(_GAIN)
    known = len(groups[0].rows) > 1 or low < high
    ends = (low, high) if known else (None, None)
    return _GAIN.text(groups[0].mean(_GAIN.key), *ends)


def _by_gain(groups: Sequence[VariantRuns]) -> list[VariantRuns]:
    return sorted(groups, key=lambda group: -group.mean(_GAIN.key))


def _score_name(rows: pd.DataFrame) -> str:
    return name_in(rows, METRICS["score_after"])


def _gained(group: VariantRuns, score: str = "") -> str:
    """As in "gains 0.42 in SQL score"."""
    gain = group.mean(_GAIN.key)
    return f"{'gains' if gain >= 0 else 'loses'} {abs(gain):.2f}{f' in {score}' if score else ''}"


def _forgot(group: VariantRuns) -> str:
    """As in "forgets 0.12 ..."; "is not shown to forget" if the bar holds 0."""
    low, high = group.reach(_FORGOT)
    change = group.mean(_FORGOT.key)
    if low > 0:
        return f"raises the loss on unrelated text by {change:.2f} (forgetting)"
    if high < 0:
        return f"lowers the loss on unrelated text by {-change:.2f}"
    return f"is not shown to forget ({_FORGOT.format(change)})"


def _drawn(facts: Facts) -> Drawn:
    return measured(facts.table, _GAIN.key, _FORGOT.key)


CHARTS = (
    ChartSpec(
        id="forgetting",
        name="Gain against forgetting",
        drawn=_drawn,
        finding=forgetting_finding,
        figure=forgetting_figure,
        reading=(
            "Forgetting is the rise of the loss on unrelated text. Both against the untouched "
            "model in the run's own precision; bars: range of the seeds, 95 % interval of a "
            "single one"
        ),
        compare=Place(row=5),
        report=50,
        hides=True,
    ),
)
