"""What was gained and what was forgotten, and the score over the steps, in the Compare tab."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd

from ftlab.charts.forgetting import (
    FORGETTING_NEEDED,
    forgetting_figure,
    forgetting_finding,
    has_forgetting,
)
from ftlab.charts.score_steps import (
    Quality,
    quality_points,
    score_steps_figure,
    score_steps_finding,
    steps_likeness,
)
from ftlab.runs.spec import CURVE_EXAMPLES
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.compare.figures import (
    Picture,
    note_html,
    picture_heading,
    picture_notes,
    unlike_html,
)
from ftlab.ui.compare.layout import PictureParts, build_picture, build_sheet
from ftlab.ui.compare.section import Section
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET
from ftlab.ui.html import live, plural

_HEIGHT = 348
_CHOICES = [("Score", "score"), ("Held-out loss", "loss")]


def build(context: AppContext) -> Section:
    """Two sheets; each is there only for a sweep that has what it shows."""
    shown = gr.State(None)  # (the sweep without its runs, the points of its curves)
    with gr.Row(equal_height=True):
        with build_sheet(visible=False) as forgetting_sheet:
            forgetting = build_picture()
        with build_sheet(visible=False) as steps_sheet:
            quality = live(
                gr.Radio, _CHOICES, value="score", label="Over the steps", show_label=False,
                container=False, elem_classes="ft-seg", elem_id="compare-quality",
            )  # fmt: skip
            steps = build_picture()

    def choose(kept: tuple[SweepData, pd.DataFrame] | None, chosen: Any) -> list[Any]:
        if kept is None:
            return [gr.skip()] * 3
        return PictureParts.updates(steps_picture(*kept, _quality(chosen)))

    quality.input(choose, [shown, quality], steps.outputs, trigger_mode="always_last", **QUIET)

    def show(data: SweepData) -> list[Any]:
        points = quality_points(data)
        forgot = forgetting_picture(data) if has_forgetting(data.table) else None
        curve = None if points.empty else steps_picture(data, points, "score")
        return [
            (replace(data, runs=(), published=()), points),
            gr.Column(visible=forgot is not None), *PictureParts.updates(forgot),
            gr.Column(visible=curve is not None), "score", *PictureParts.updates(curve),
        ]  # fmt: skip

    outputs = (
        shown, forgetting_sheet, *forgetting.outputs, steps_sheet, quality, *steps.outputs,
    )  # fmt: skip
    return Section(outputs, show)


def forgetting_picture(data: SweepData) -> Picture:
    """What each variant gained against what it forgot."""
    words = forgetting_finding(data.table)
    sub = (
        "Forgetting is the rise of the loss on unrelated text. Both against the untouched model in "
        "the run's own precision; bars: range of the seeds, 95 % interval of a single one"
    )
    return Picture(
        picture_heading(words, "forgetting", data, sub),
        forgetting_figure(data.table, _HEIGHT),
        picture_notes(data.table, *FORGETTING_NEEDED),
    )


def steps_picture(data: SweepData, points: pd.DataFrame, quality: Quality) -> Picture:
    """Score or held-out loss over the steps."""
    unlike = steps_likeness(points, data.table)
    missing = len(data.table) - int(points["run_id"].nunique())
    left_out = f"{plural(missing, 'run')} left out: not evaluated between steps." if missing else ""
    sub = (
        f"On the first held-out examples, {CURVE_EXAMPLES} at most; step 0 is the untouched model. "
        "Not part of training time and memory"
    )
    return Picture(
        picture_heading(score_steps_finding(points, quality), f"{quality}-by-step", data, sub),
        score_steps_figure(points, quality, _HEIGHT, unlike),
        note_html(left_out) + unlike_html(unlike.sentence),
    )


def _quality(given: Any) -> Quality:
    return "loss" if given == "loss" else "score"
