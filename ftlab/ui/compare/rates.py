"""Loss against learning rate in the Compare tab, of a sweep that tries several rates."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ftlab.charts.learning_rate import learning_rate_figure
from ftlab.runs.spec import EVAL_SPLITS
from ftlab.runs.sweep_data import SweepData
from ftlab.tuning.reading import Tuned, tuned_of
from ftlab.ui.compare.figures import Picture, picture_heading
from ftlab.ui.compare.layout import PictureParts, build_picture, build_sheet
from ftlab.ui.compare.section import Section
from ftlab.ui.context import AppContext
from ftlab.words import rate_name

_HEIGHT = 348


def build(context: AppContext) -> Section:
    """A sheet that is there only for a sweep whose variants differ by learning rate alone."""
    with gr.Row(equal_height=True), build_sheet(visible=False) as sheet:
        parts = build_picture()

    def show(data: SweepData) -> list[Any]:
        ladder = tuned_of(data.runs)
        shown = None if ladder is None or len(ladder.points) < 2 else rates_picture(data, ladder)
        return [gr.Column(visible=shown is not None), *PictureParts.updates(shown)]

    return Section((sheet, *parts.outputs), show)


def rates_picture(data: SweepData, ladder: Tuned) -> Picture:
    """The ladder of the sweep. A rate is suggested only of one that the tuning split measured."""
    split = ladder.runs[0].spec.settings.eval_split
    name = f"{EVAL_SPLITS[split]} loss"
    suggested = ladder.suggestion.rate if split == "tuning" else None
    known = [point for point in ladder.points if point.loss is not None]
    if suggested is not None:
        words = f"{ladder.variant.label}: suggested learning rate {rate_name(suggested)}"
    elif known:
        best = min(known, key=lambda point: point.loss or 0.0)
        words = f"{ladder.variant.label}: lowest {name} at {rate_name(best.rate)}"
    else:
        words = f"{ladder.variant.label}: no rate has a loss"
    sub = (
        ladder.suggestion.reason
        if split == "tuning"
        else "Choose a rate on the tuning split (python -m ftlab tune): one that is chosen here "
        "makes the held-out loss look better than it is"
    )
    return Picture(
        picture_heading(words, "loss-by-learning-rate", data, sub),
        learning_rate_figure(data.table, name, suggested, _HEIGHT),
        "",
    )
