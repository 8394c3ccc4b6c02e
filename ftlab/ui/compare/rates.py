"""Loss against learning rate in the Compare tab, of a sweep that tries several rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ftlab.charts.learning_rate import RateCurve, learning_rate_figure, learning_rates_figure
from ftlab.charts.template import plain
from ftlab.runs.spec import EVAL_SPLITS
from ftlab.runs.sweep_data import SweepData
from ftlab.tuning.reading import Tuned, ladders_of
from ftlab.ui.compare.figures import Picture, picture_heading
from ftlab.ui.compare.layout import PictureParts, build_picture, build_sheet
from ftlab.ui.compare.section import Section
from ftlab.ui.context import AppContext
from ftlab.ui.html import Markup, named
from ftlab.words import rate_name

_HEIGHT = 348
_CHOOSE_ELSEWHERE = (
    "Choose a rate on the tuning split (python -m ftlab tune): one that is chosen here "
    "makes the held-out loss look better than it is"
)


def build(context: AppContext) -> Section:
    """A sheet that is there only for a sweep each of whose variants has several rates."""
    with gr.Row(equal_height=True), build_sheet(visible=False) as sheet:
        parts = build_picture()

    def show(data: SweepData) -> list[Any]:
        ladders = ladders_of(data.runs)
        several = bool(ladders) and all(len(ladder.points) > 1 for ladder in ladders)
        shown = rates_picture(data, ladders) if several else None
        return [gr.Column(visible=shown is not None), *PictureParts.updates(shown)]

    return Section((sheet, *parts.outputs), show)


def rates_picture(data: SweepData, ladders: Sequence[Tuned]) -> Picture:
    """The ladders of the sweep. A rate is suggested only of one that the tuning split measured."""
    split = ladders[0].runs[0].spec.settings.eval_split
    name, is_tuning = f"{EVAL_SPLITS[split]} loss", split == "tuning"
    suggested = [ladder.suggestion.rate if is_tuning else None for ladder in ladders]
    if len(ladders) == 1:
        words = f"{ladders[0].variant.label}: {_finding(ladders[0], is_tuning, name)}"
        sub = ladders[0].suggestion.reason if is_tuning else _CHOOSE_ELSEWHERE
        figure = learning_rate_figure(data.table, name, suggested[0], _HEIGHT)
    else:
        words = "Suggested learning rates" if is_tuning else f"Lowest {name}"
        sub = _findings(ladders, is_tuning)
        curves = [
            RateCurve(plain(ladder.variant.label), _rows(data, ladder), rate)
            for ladder, rate in zip(ladders, suggested, strict=True)
        ]
        figure = learning_rates_figure(curves, name, _HEIGHT)
    return Picture(picture_heading(words, "loss-by-learning-rate", data, sub), figure, "")


def _rows(data: SweepData, ladder: Tuned) -> Any:
    """The ladder's rows of the sweep's table."""
    return data.table[data.table["run_id"].isin([run.run_id for run in ladder.runs])]


def _finding(ladder: Tuned, is_tuning: bool, name: str) -> str:
    rate = ladder.suggestion.rate
    known = [point for point in ladder.points if point.loss is not None]
    if is_tuning and rate is not None:
        return f"suggested learning rate {rate_name(rate)}"
    if not known:
        return "no rate has a loss"
    best = min(known, key=lambda point: point.loss or 0.0)
    return f"lowest {name} at {rate_name(best.rate)}"


def _findings(ladders: Sequence[Tuned], is_tuning: bool) -> Markup:
    """HTML: each variant in its colour with its rate, the suggested one or that of the lowest
    loss."""
    found = []
    for ladder in ladders:
        known = [point for point in ladder.points if point.loss is not None]
        best = min(known, key=lambda point: point.loss or 0.0).rate if known else None
        rate = rate_name(ladder.suggestion.rate if is_tuning else best)
        found.append(f"{named(ladder.variant.method, ladder.variant.label)} {rate}")
    aside = "" if is_tuning else f". {_CHOOSE_ELSEWHERE}"
    return Markup(", ".join(found) + aside)
