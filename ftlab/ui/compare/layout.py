"""The components of the Compare tab; `compare` wires them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.charts.axes import measure_name
from ftlab.runs.metrics import HEADLINES, METRICS
from ftlab.ui.compare.figures import Picture, reading_legend
from ftlab.ui.compare.page import Further, View
from ftlab.ui.html import H, live

MOST_SMOOTHING = 20
LOSS_X = [("Steps", "step"), ("Tokens", "tokens"), ("Seconds", "seconds")]

_OPEN_RUN = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-open]');
  if (button) trigger('select', {run: button.dataset.open});
});
element.addEventListener('ft-open', (event) => trigger('select', {run: event.detail}));"""
_ALL_MEASURES = [(measure_name(metric).capitalize(), key) for key, metric in METRICS.items()]


@dataclass(frozen=True)
class PictureParts:
    """Where a `Picture` is shown."""

    heading: gr.HTML
    figure: gr.Plot
    note: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.heading, self.figure, self.note]

    @staticmethod
    def updates(picture: Picture | None) -> list[Any]:
        """One update an output; none of them changes anything without a picture."""
        if picture is None:
            return [gr.skip()] * 3
        return [picture.heading, picture.figure, picture.note]


@dataclass(frozen=True)
class Layout:
    """The tab's components, from top to bottom. `runs` also hears clicks on points of figures."""

    sweep: gr.Dropdown
    top: gr.HTML
    adapter: gr.Radio
    fair: gr.HTML
    bars_heading: gr.HTML
    bar_titles: tuple[gr.HTML, ...]
    bars: tuple[gr.Plot, ...]
    bars_note: gr.HTML
    x: gr.Dropdown
    y: gr.Dropdown
    pareto: PictureParts
    loss_x: gr.Radio
    smoothing: gr.Slider
    loss: PictureParts
    points: gr.State
    score_time: PictureParts
    phases_sheet: gr.Column
    phases: PictureParts
    anatomy_sheet: gr.Column
    anatomy: PictureParts
    runs: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """What shows the first screen of a sweep."""
        return [
            self.top, self.adapter, self.fair, self.bars_heading, *self.bar_titles, *self.bars,
            self.bars_note,
            self.x, self.y, *self.pareto.outputs,
        ]  # fmt: skip

    @property
    def further_outputs(self) -> list[Any]:
        """What shows the rest of it."""
        return [
            *self.loss.outputs, self.points,
            *self.score_time.outputs, self.phases_sheet, *self.phases.outputs,
            self.anatomy_sheet, *self.anatomy.outputs, self.runs,
        ]  # fmt: skip

    def updates(self, shown: View) -> list[Any]:
        """One update an output, in the order of `outputs`."""
        several = len(shown.adapters) > 1
        return [
            shown.headline,
            gr.Radio(choices=shown.adapters, value=shown.adapter, visible=several),
            shown.fairness + shown.unfinished,
            shown.bars.heading, *shown.bars.titles, *shown.bars.figures, shown.bars.note,
            gr.Dropdown(choices=shown.measures, value=shown.x),
            gr.Dropdown(choices=shown.measures, value=shown.y),
            *PictureParts.updates(shown.pareto),
        ]  # fmt: skip

    def further_updates(self, shown: Further) -> list[Any]:
        """One update an output, in the order of `further_outputs`."""
        return [
            *PictureParts.updates(shown.loss), shown.points,
            *PictureParts.updates(shown.score_time),
            gr.Column(visible=shown.phases is not None), *PictureParts.updates(shown.phases),
            gr.Column(visible=shown.anatomy is not None), *PictureParts.updates(shown.anatomy),
            shown.runs,
        ]  # fmt: skip


def build_layout() -> Layout:
    """Lays the tab out, from top to bottom."""
    with gr.Row(elem_classes="ft-tools ft-choose"):
        sweep = live(
            gr.Dropdown, [], label="Sweep", show_label=False, container=False, scale=0,
            min_width=640, elem_id="compare-sweep",
        )  # fmt: skip
    with gr.Column(elem_classes="ft-sheet"):
        top = H()
        adapter = live(
            gr.Radio, [], label="Method in the headline", show_label=False, container=False,
            elem_classes="ft-seg",
        )  # fmt: skip
        fair = H()
    with gr.Row(equal_height=True):
        with build_sheet():
            bars_heading, titles, bars, bars_note = _bars()
        with build_sheet():
            x, y, pareto = _pareto()
    with gr.Row(equal_height=True):
        with build_sheet():
            loss_x, smoothing, loss = _loss()
        with build_sheet():
            score_time = build_picture()
    with gr.Row(equal_height=True):
        with build_sheet(visible=False) as phases_sheet:
            phases = build_picture()
        with build_sheet(visible=False) as anatomy_sheet:
            anatomy = build_picture()
    with gr.Column(elem_classes="ft-sheet"):
        runs = H(js_on_load=_OPEN_RUN)
    return Layout(
        sweep, top, adapter, fair, bars_heading, titles, bars, bars_note, x, y, pareto,
        loss_x, smoothing, loss, gr.State(None), score_time, phases_sheet, phases, anatomy_sheet,
        anatomy, runs,
    )  # fmt: skip


def build_legend() -> None:
    """The line that closes the tab."""
    H(reading_legend())


def build_sheet(visible: bool = True) -> gr.Column:
    """The surface on which a picture lies; two stand side by side where there is room."""
    return gr.Column(scale=1, min_width=340, elem_classes="ft-sheet ft-picture", visible=visible)


def _bars() -> tuple[gr.HTML, tuple[gr.HTML, ...], tuple[gr.Plot, ...], gr.HTML]:
    head = H()
    titles, bars = [], []
    with gr.Row(elem_classes="ft-small"):
        for _ in HEADLINES:
            with gr.Column(min_width=250, elem_classes="ft-picture"):
                titles.append(H())
                bars.append(_plot())
    return head, tuple(titles), tuple(bars), H()


def _pareto() -> tuple[gr.Dropdown, gr.Dropdown, PictureParts]:
    head = H()
    with gr.Row(elem_classes="ft-tools ft-axes"):
        x, y = (
            live(gr.Dropdown, _ALL_MEASURES, label=label, min_width=120, elem_id=f"compare-{name}")
            for label, name in (("Across", "x"), ("Up", "y"))
        )
    return x, y, PictureParts(head, _plot(), H())


def _loss() -> tuple[gr.Radio, gr.Slider, PictureParts]:
    head = H()
    with gr.Row(elem_classes="ft-tools ft-axes"):
        loss_x = live(
            gr.Radio, LOSS_X, value="step", label="Loss over", show_label=False, container=False,
            elem_classes="ft-seg", elem_id="compare-loss-x", scale=0, min_width=220,
        )  # fmt: skip
        smoothing = live(
            gr.Slider, 1, MOST_SMOOTHING, value=1, step=1, label="Mean over steps",
            elem_id="compare-smoothing", min_width=160, buttons=[],
        )  # fmt: skip
    return loss_x, smoothing, PictureParts(head, _plot(), H())


def build_picture() -> PictureParts:
    """Empty components for a picture."""
    return PictureParts(H(), _plot(), H())


def _plot() -> gr.Plot:
    return gr.Plot(show_label=False, container=False, elem_classes="ft-fig ft-open")
