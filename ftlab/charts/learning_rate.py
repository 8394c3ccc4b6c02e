"""Loss against learning rate: the ladder of one variant, or of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from ftlab.basics.words import rate_name
from ftlab.charts.drawing import HEIGHT, axis_of, empty_figure, figure, fix_margins, plain
from ftlab.charts.facts import (
    NOTE_PIXELS,
    VariantRuns,
    add_facts,
    by_variant,
    is_measured,
    left_out,
    opening,
)
from ftlab.charts.html import named
from ftlab.charts.points import spread_bars, untouched_line
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place
from ftlab.jobs.tuning import Tuned, ladders_of
from ftlab.methods.registry import BASE_LOOK, look_of
from ftlab.records.metrics import METRICS
from ftlab.records.result import status_label
from ftlab.records.store import SweepData
from ftlab.settings.training import EVAL_SPLITS, EvalSplit

_LOSS = METRICS["eval_loss_after"]
_BEFORE = "eval_loss_before"
_BELOW_TOP = 0.05  # share of the axis; above it is the origin of the numbers
_MEAN = "mean of the seeds"
_MOST_TICKS = 9  # rates that fit as labels on the axis
_CHOOSE_ELSEWHERE = (
    "Choose a rate on the tuning split (python -m ftlab tune): one that is chosen here "
    "makes the test loss look better than it is"
)
_FAR = 3.0  # times the span of the losses: a line further away would flatten the ladder


@dataclass(frozen=True)
class RateCurve:
    """The ladder of one variant, and the rate to mark, if there is one.

    `table` has the columns `ROW_KEYS`; its runs differ only by learning rate and seed. `name` is
    the name of the curve on hover.
    """

    name: str
    table: pd.DataFrame
    suggested: float | None = None


def learning_rates_figure(
    curves: Sequence[RateCurve], name: str = "", height: int = HEIGHT
) -> go.Figure:
    """The ladders of one sweep: the loss at each rate, with mean and range of the seeds.

    Rates without a loss are at the top. The untouched model's loss is a line, or a text if it is
    far from all losses. `name` is the name of the loss ("tuning loss"); `height` is in pixels.
    """
    table = pd.concat([curve.table for curve in curves])
    rows, _ = left_out(table, _LOSS.key)
    if rows.empty:
        return empty_figure("no run has a loss", height)
    ladders = [_groups(curve) for curve in curves]
    everything = [group for groups in ladders for group in groups]
    before = _losses_before(everything)
    values = [value for group in everything for value in group.values(_LOSS.key)]
    least, most = min(values), max(values)
    far = [loss for loss in before if max(loss - most, least - loss) > _FAR * (most - least)]
    near = [loss for loss in before if loss not in far]
    axis = axis_of(_LOSS, [*values, *near], name)
    undone = table[~table.index.isin(rows.index)]
    rates = sorted({*map(_rate, everything), *undone["learning_rate"].dropna().tolist()})
    fig = figure(height, margin={"r": 16, "t": NOTE_PIXELS})
    ends = [rates[0] / 1.3, rates[-1] * 1.3]
    for loss in far[:1]:
        _say_untouched(fig, loss, above=loss > most)
    for loss in near:
        fig.add_trace(untouched_line("untouched model", loss, ends, _LOSS))
    for curve, groups in zip(curves, ladders, strict=True):
        if groups:
            fig.add_trace(_curve(groups, curve.name))
    if len(undone):
        fig.add_trace(_undone(undone, axis.high - _BELOW_TOP * (axis.high - axis.low)))
    shown = _apart(rates)
    fig.update_layout(
        xaxis={
            "title": {"text": "learning rate"},
            "type": "log",
            "range": [math.log10(end) for end in ends],
            "tickmode": "array",
            "tickvals": shown,
            "ticktext": [rate_name(rate) for rate in shown],
        },
        yaxis=axis.layout(),
    )
    for curve, groups in zip(curves, ladders, strict=True):
        if curve.suggested is not None:
            _mark(fig, groups, curve.suggested, axis.scaled)
    return add_facts(fix_margins(fig, axis.texts, y_title=True), table)


def _groups(curve: RateCurve) -> list[VariantRuns]:
    """The runs that have a loss, grouped by rate, lowest rate first."""
    rows, _ = left_out(curve.table, _LOSS.key)
    return sorted(by_variant(rows, _LOSS.key, _BEFORE), key=_rate)


def _losses_before(groups: Sequence[VariantRuns]) -> list[float]:
    """The untouched model's losses, one for each precision of the base."""
    found = [row[_BEFORE] for group in groups for row in group.rows if is_measured(row[_BEFORE])]
    return list(dict.fromkeys(float(loss) for loss in found))


def _apart(rates: Sequence[float]) -> list[float]:
    """The rates that are labelled on the axis: those far enough from the previous label."""
    if len(rates) <= _MOST_TICKS:
        return list(rates)
    shown = [rates[0]]
    room = (rates[-1] / rates[0]) ** (1 / _MOST_TICKS)
    for rate in rates[1:]:
        if rate / shown[-1] >= room:
            shown.append(rate)
    return shown


def _rate(group: VariantRuns) -> float:
    return float(group.rows[0]["learning_rate"])


def _curve(groups: Sequence[VariantRuns], name: str) -> dict[str, Any]:
    look = look_of(groups[0].method)
    means = [group.mean(_LOSS.key) for group in groups]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [_rate(group) for group in groups],
        "y": means,
        "error_y": spread_bars(groups, _LOSS, look.colour),
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"color": look.colour, "symbol": look.marker, "size": 10},
        **opening(groups, [f"loss {_LOSS.format(mean)}" for mean in means]),
        "hovertemplate": f"%{{hovertext}}<extra>{'' if name == _MEAN else name}</extra>",
    }


def _undone(rows: pd.DataFrame, height: float) -> dict[str, Any]:
    """Runs without a loss, all at one height, labelled with their status."""
    words = [plain(status_label(str(status))) for status in rows["status"]]
    said = zip(words, [plain(str(reason or "")) for reason in rows["reason"]], strict=True)
    groups = [VariantRuns("", "", (row,)) for row in rows.to_dict("records")]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "not done",
        "x": rows["learning_rate"].tolist(),
        "y": [height] * len(rows),
        "text": words,
        "textposition": "bottom center",
        "marker": {"color": BASE_LOOK.colour, "symbol": BASE_LOOK.marker, "size": 9},
        **opening(groups, ["<br>".join(filter(None, pair)) for pair in said]),
    }


def _say_untouched(fig: go.Figure, loss: float, above: bool) -> None:
    where = "above" if above else "below"
    fig.add_annotation(
        text=f"untouched model {_LOSS.format(loss)}, far {where}",
        xref="paper", x=0.01, xanchor="left", yref="paper", y=0.98 if above else 0.02,
        yanchor="top" if above else "bottom", showarrow=False, font_size=11,
    )  # fmt: skip


def _mark(fig: go.Figure, groups: Sequence[VariantRuns], rate: float, scaled: Any) -> None:
    group = next((group for group in groups if _rate(group) == rate), None)
    if group is not None:
        fig.add_annotation(
            x=math.log10(rate), y=scaled(group.mean(_LOSS.key)), text="suggested", yshift=16,
            showarrow=False, font_size=11,
        )  # fmt: skip


def _ladders(data: SweepData) -> list[Tuned]:
    """Not those of a race, whose runs have trained for different numbers of steps."""
    return [] if any(run.directory.may_pause for run in data.runs) else ladders_of(data.runs)


def _drawn(facts: Facts) -> Drawn:
    """All runs if each variant of the sweep has several rates; else none."""
    several = bool(facts.read) and all(len(ladder.points) > 1 for ladder in facts.read)
    return Drawn(facts.table if several else facts.table.iloc[:0], "")


def _figure(facts: Facts) -> go.Figure:
    curves = []
    for ladder in facts.read:
        name = plain(ladder.variant.label) if len(facts.read) > 1 else _MEAN
        rows = facts.table[facts.table["run_id"].isin([run.run_id for run in ladder.runs])]
        curves.append(RateCurve(name, rows, _suggested(ladder)))
    if not curves:
        return empty_figure("no learning rates were tried", facts.height)
    return learning_rates_figure(curves, _loss_name(facts.read), facts.height)


def _finding(facts: Facts) -> str:
    """The rate suggested on the tuning split, else the best; a general title if several ladders."""
    ladders: Sequence[Tuned] = facts.read
    if len(ladders) != 1:
        suggests = any(map(_is_tuning, ladders))
        return "Suggested learning rates" if suggests else f"Lowest {_loss_name(ladders)}"
    (ladder,) = ladders
    label, suggested, best = ladder.variant.label, _suggested(ladder), _best(ladder)
    if suggested is not None:
        return f"{label}: suggested learning rate {rate_name(suggested)}"
    if best is None:
        return f"{label}: no rate has a loss"
    return f"{label}: lowest {_loss_name(ladders)} at {rate_name(best)}"


def _reading(facts: Facts) -> str:
    """The reason for that rate; for several ladders, each variant with its rate, as HTML."""
    ladders: Sequence[Tuned] = facts.read
    if len(ladders) == 1:
        return ladders[0].suggestion.reason if _is_tuning(ladders[0]) else _CHOOSE_ELSEWHERE
    found = ", ".join(
        f"{named(ladder.variant.method, ladder.variant.label)} "
        f"{rate_name(ladder.suggestion.rate if _is_tuning(ladder) else _best(ladder))}"
        for ladder in ladders
    )
    return Markup(found if any(map(_is_tuning, ladders)) else f"{found}. {_CHOOSE_ELSEWHERE}")


def _split(ladder: Tuned) -> EvalSplit:
    return ladder.runs[0].spec.settings.eval_split


def _is_tuning(ladder: Tuned) -> bool:
    return _split(ladder) == "tuning"


def _loss_name(ladders: Sequence[Tuned]) -> str:
    return f"{EVAL_SPLITS[_split(ladders[0])]} loss" if ladders else "loss"


def _suggested(ladder: Tuned) -> float | None:
    return ladder.suggestion.rate if _is_tuning(ladder) else None


def _best(ladder: Tuned) -> float | None:
    """The rate with the lowest loss."""
    known = [point for point in ladder.points if point.loss is not None]
    return min(known, key=lambda point: point.loss or 0.0).rate if known else None


CHARTS = (
    ChartSpec(
        id="loss-by-learning-rate",
        name="Loss by learning rate",
        drawn=_drawn,
        finding=_finding,
        figure=_figure,
        reading=_reading,
        read=_ladders,
        compare=Place(row=4),
        hides=True,
    ),
)
