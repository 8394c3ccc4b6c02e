"""Learn: the same for a weight matrix. The singular values of what a LoRA changes, layer by layer,
and of what full fine-tuning changed in the same matrix."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ftlab.charts.learn import MEASURES
from ftlab.errors import FtlabError, one_line
from ftlab.ui.context import AppContext
from ftlab.ui.html import H, escape, field_error, heading, live
from ftlab.ui.learn.change_view import (
    MAX_RANK,
    Chosen,
    choose,
    finding,
    full_figure,
    full_html,
    layer_name,
    map_figure,
    matrix_html,
    rank_within,
    scale_words,
    source_chip,
    sources,
    spectrum,
)
from ftlab.ui.learn.parts import QUIET, plot

_TITLE = "LoRA does the same to a weight matrix: W stays, B·A is laid over it"
_PAPERS = (
    '<p class="meta"><a href="https://arxiv.org/abs/2106.09685">Hu et al. 2021, LoRA</a> holds '
    "that the change fine-tuning needs has a low rank; "
    '<a href="https://arxiv.org/abs/2012.13255">Aghajanyan et al. 2020</a> found few dimensions '
    "to be enough to learn a task. Size is the Frobenius norm, energy its square; effective rank "
    "counts the directions that are used, weighted by their size (Roy &amp; Vetterli 2007).</p>"
)


def build(context: AppContext, entered: list[Any]) -> None:
    """Lays the panel out; the lists are filled, and an adapter read, at the `entered` events."""
    head = H(heading(_TITLE))
    with gr.Row(elem_classes="ft-tools ft-matrix-tools"):
        name = live(gr.Dropdown, [], label="Adapter", scale=4, min_width=220)
        layer = live(gr.Dropdown, [], label="Layer", scale=1, min_width=80)
        part = live(gr.Dropdown, [], label="Matrix", scale=1, min_width=110)
    wrong = H()
    with gr.Column(visible=False) as page:
        found = H()
        bars = plot()
        stored_table = H()
        with gr.Row(elem_classes="ft-map-tools"):
            H("<h4>Every matrix that it changes</h4>")
            measure = live(
                gr.Radio,
                [(label.capitalize(), key) for key, label in MEASURES.items()],
                value="size",
                label="What the colour says",
                show_label=False,
                container=False,
                elem_classes="ft-seg",
            )
        cells = plot()
        full_name = live(gr.Dropdown, [], label="Full fine-tuning to hold it against")
        full_head = H()
        with gr.Column(visible=False) as full_part:
            rank = live(
                gr.Slider, 1, MAX_RANK, 8, step=1, precision=0, label="Rank r over the full change"
            )
            full_bars = plot()
        H(_PAPERS)

    state = gr.State(None)
    parts = [head, layer, part, found, bars, stored_table, cells]
    full_parts = [full_name, full_head, full_part, rank, full_bars]
    shown = [state, wrong, page, *parts, *full_parts]

    def refuse(sentence: str) -> list[Any]:
        hidden = [None, field_error([sentence]), gr.Column(visible=False)]
        return [*hidden, *[gr.skip()] * (len(shown) - len(hidden))]

    def details(chosen: Chosen, what: str | None, r: int) -> list[Any]:
        change, matrix = chosen.change, chosen.matrix
        fulls = [(s.title, s.name) for s in chosen.full_runs]
        beside = chosen.full_run.name if chosen.full_run else None
        return [
            chosen,
            "",
            gr.Column(visible=True),
            heading(_TITLE, source_chip(chosen.source), sub=scale_words(change, matrix)),
            gr.Dropdown([(layer_name(i), i) for i in change.layers], value=matrix.layer),
            gr.Dropdown(change.parts(matrix.layer), value=matrix.part),
            f"<h4>{escape(finding(matrix))}</h4>",
            spectrum(chosen),
            matrix_html(chosen),
            map_figure(chosen, _known(what)),
            gr.Dropdown(fulls, value=beside, visible=bool(fulls)),
            full_html(chosen, r),
            gr.Column(visible=chosen.full is not None),
            r,
            full_figure(chosen, r),
        ]

    def look(
        before: Chosen | None,
        source_name: str | None,
        row: int | None,
        column: str | None,
        what: str | None,
        full: str | None,
        r: float | None,
    ) -> list[Any]:
        if not source_name:
            return refuse("Choose an adapter.")
        try:
            chosen = choose(context.store, before, source_name, row, column, full)
        except (FtlabError, OSError) as error:
            return refuse(one_line(error))
        is_same = before is not None and before.source.name == chosen.source.name
        return details(chosen, what, rank_within(r if is_same else chosen.matrix.rank))

    def enter(before: Chosen | None, source_name: str | None, *rest: Any) -> list[Any]:
        able = sources(context.store)
        names = [s.name for s in able]
        if not names:
            return [gr.Dropdown(choices=[]), *refuse("There is no adapter to look into.")]
        kept = source_name if source_name in names else names[0]
        choices = gr.Dropdown(choices=[(s.title, s.name) for s in able], value=kept)
        return [choices, *look(before, kept, *rest)]

    def recolour(chosen: Chosen | None, what: str | None) -> Any:
        return map_figure(chosen, _known(what)) if chosen else gr.skip()

    def slide(chosen: Chosen | None, r: float | None) -> list[Any]:
        if chosen is None:
            return [gr.skip(), gr.skip()]
        asked = rank_within(r)
        return [full_html(chosen, asked), full_figure(chosen, asked)]

    # "always_last": a choice made while one is being answered is answered too, not dropped.
    inputs = [state, name, layer, part, measure, full_name, rank]
    gr.on(entered, enter, inputs, [name, *shown], **QUIET)
    gr.on(
        [name.input, layer.input, part.input, full_name.input],
        look,
        inputs,
        shown,
        **QUIET,
    )
    measure.input(recolour, [state, measure], cells, **QUIET)
    rank.input(slide, [state, rank], [full_head, full_bars], **QUIET)


def _known(measure: str | None) -> str:
    return measure if measure in MEASURES else next(iter(MEASURES))
