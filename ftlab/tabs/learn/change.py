"""Learn: what a LoRA changes in each weight matrix, shown by singular values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.errors import FtlabError, one_line
from ftlab.charts.html import origin_chip
from ftlab.charts.learn import MAP_COLUMNS, MEASURES, change_map, spectrum_figure, spectrum_rows
from ftlab.learn.matrices import (
    OUTSIDE,
    AdapterChange,
    FullChange,
    MatrixChange,
    base_folder,
    full_change,
    kept,
    rank_for,
    read_adapter,
    stored,
)
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import look_of
from ftlab.playground.panes import (
    SHIPPED,
    UPLOADED,
    PaneSource,
    all_sources,
    find_source,
    wrong_base,
)
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext
from ftlab.tabs.learn.parts import QUIET, USUAL_RANK, plot, rank_within, table
from ftlab.tabs.widgets import H, blank, chip, escape, field_error, heading, live

MAX_RANK = 64
"""The largest rank on the slider for the full change."""

_FIRST_PART = "q_proj"
_LORA_METHODS = ("lora", "qlora")
_NO_FULL = blank(
    "No full fine-tuning of this base to hold it against.",
    "Run full fine-tuning in Experiment: the change that it makes to this very matrix is then "
    "taken apart here, and a slider shows how much of it each rank would hold.",
)


@dataclass(frozen=True)
class Chosen:
    """One matrix of one adapter, and the same matrix of a full fine-tuning run.

    `full_runs` are the full fine-tuning runs of the same base, newest first. `full_run` is the one
    to compare with; then `full` is its change, or `why_not` says why it cannot be computed.
    """

    source: PaneSource
    change: AdapterChange
    matrix: MatrixChange
    full_runs: tuple[PaneSource, ...] = ()
    full_run: PaneSource | None = None
    full: FullChange | None = None
    why_not: str = ""

    @property
    def colour(self) -> str:
        return look_of(self.source.method).colour


def sources(store: RunStore) -> list[PaneSource]:
    """Returns the adapters that can be shown: LoRA and QLoRA, newest first, then all others."""
    found = [s for s in all_sources(store.runs(), store.folder) if s.is_adapter and s.folder]
    return sorted(found, key=lambda s: s.method not in _LORA_METHODS)


def choose(
    store: RunStore,
    before: Chosen | None,
    source_name: str,
    layer: int | None = None,
    part: str | None = None,
    full_name: str | None = None,
) -> Chosen:
    """Returns a matrix of that adapter, compared with a full fine-tuning run.

    Defaults: the middle layer, `q_proj`, and the newest run; also if a choice does not exist. With
    `before`, the same adapter is not read again. Raises `FtlabError` if the adapter is missing,
    broken or not a LoRA.
    """
    source = find_source(store.folder, source_name)
    if before is not None and before.source.name == source.name:
        change = before.change
    elif source.folder is not None:
        change = read_adapter(source.folder)
    else:
        raise FtlabError(f"'{source.label}' has no adapter; choose another.")
    if layer not in change.layers:
        layer = change.layers[len(change.layers) // 2]
    assert layer is not None
    matrix = change.find(layer, part or _FIRST_PART)
    full_runs = tuple(
        s
        for s in all_sources(store.runs(), store.folder)
        if s.method == FULL.id and not wrong_base(source, s.model)
    )
    chosen = Chosen(source, change, matrix, full_runs)
    if not full_runs:
        return chosen
    run = next((s for s in full_runs if s.name == full_name), full_runs[0])
    try:
        assert run.folder is not None
        full = full_change(base_folder(run.model), run.folder, matrix.module)
    except (FtlabError, OSError) as error:
        return replace(chosen, full_run=run, why_not=one_line(error))
    return replace(chosen, full_run=run, full=full)


def map_figure(chosen: Chosen, measure: str) -> go.Figure:
    """Draws the map of all matrices, the chosen one framed; `measure` is a key of `MEASURES`."""
    rows = [
        [m.layer, m.part, m.name, m.size, m.effective_rank, m.rank] for m in chosen.change.matrices
    ]
    table = pd.DataFrame(rows, columns=MAP_COLUMNS)
    return change_map(table, measure, chosen.matrix.name, chosen.colour)


def spectrum(chosen: Chosen) -> go.Figure:
    """Draws the singular values of the adapter's change of the matrix."""
    matrix = chosen.matrix
    return spectrum_figure(spectrum_rows(matrix.values, matrix.rank), chosen.colour)


def finding(matrix: MatrixChange) -> str:
    """Returns a sentence on the adapter's change of the matrix, from its singular values."""
    if not matrix.values.any():
        return f"Nothing is changed in {matrix.name}: its B or A is still zero"
    if matrix.rank == 1:
        return f"All of the change of {matrix.name} lies in one direction: the adapter has rank 1"
    needed = rank_for(matrix.values, 0.9)
    return (
        f"{needed} of {matrix.rank} direction{'s' if matrix.rank > 1 else ''} "
        f"hold{'s' if needed == 1 else ''} 90 % of the energy of {matrix.name}'s change"
    )


def scale_words(change: AdapterChange, matrix: MatrixChange) -> str:
    divisor = f"√{matrix.rank}" if change.rank_stabilised else f"{matrix.rank}"
    kind = "rsLoRA: alpha / √r" if change.rank_stabilised else "alpha / r"
    root = np.sqrt(matrix.rank) if change.rank_stabilised else matrix.rank
    return f"ΔW = s·B·A with s = {kind} = {matrix.scale * root:g} / {divisor} = {matrix.scale:.3g}"


def source_chip(source: PaneSource) -> str:
    """HTML: a chip with the origin of the adapter."""
    if source.name.startswith(SHIPPED):
        return chip("ships with ftlab", "mute", "Trained by the app itself, and shipped with it")
    if source.name.startswith(UPLOADED):
        return chip("uploaded", "mute", "An adapter that was uploaded here")
    return origin_chip("measured")


def matrix_html(chosen: Chosen) -> str:
    """HTML: the size of B·A against the full change, for this matrix and for all matrices."""
    change, matrix = chosen.change, chosen.matrix
    m, n = matrix.shape
    every = sum(each.shape[0] * each.shape[1] for each in change.matrices)
    counts = [
        (f"{matrix.name}: full change, {m:,} x {n:,}", m * n),
        (f"{matrix.name}: B·A at rank {matrix.rank}", matrix.numbers),
        (f"All {len(change.matrices)} matrices: full change", every),
        ("All matrices: B·A", sum(each.numbers for each in change.matrices)),
    ]
    width = change.number_bytes
    rows = [(name, f"{count:,}", units.format_bytes(count * width)) for name, count in counts]
    sentence = (
        f"Size of the change {units.format_number(matrix.size, 3)}, "
        f"effective rank {units.format_number(matrix.effective_rank, 1)}."
    )
    if change.left_out:
        sentence += (
            f" {change.left_out} matrices with a name that its layer has twice are left out."
        )
    return (
        table(("Stored", "numbers", f"at {width} bytes each"), rows, label="What is stored")
        + f'<p class="meta">{escape(sentence)}</p>'
    )


def full_finding(chosen: Chosen, rank: int) -> str:
    """Returns a sentence on how much of the matrix's full change a rank would hold."""
    name = chosen.matrix.name
    if chosen.full is None:
        return ""
    values = chosen.full.values
    if not values.any():
        return f"Full fine-tuning left {name} as it was: in its dtype no number moved"
    return (
        f"Rank {rank} holds {units.format_share(kept(values, rank))} of the energy of the change "
        f"full fine-tuning made to {name}"
    )


def full_html(chosen: Chosen, rank: int) -> str:
    """HTML: the heading above the figure of the full change, or why there is none."""
    if chosen.full_run is None:
        return _NO_FULL
    if chosen.full is None:
        return field_error([chosen.why_not])
    values, (m, n) = chosen.full.values, chosen.matrix.shape
    words = (
        f"Figure: its first {min(len(values), MAX_RANK)} of {len(values)} singular values; half of "
        f"the energy is in {rank_for(values, 0.5)}, 90 % in {rank_for(values, 0.9)} directions. "
        "LoRA does not copy this change: it looks for another that fits into r directions."
    )
    if chosen.full.bits <= 16:
        words += (
            " Its weights are saved in 16 bits: part of the change is rounding, "
            "which no low rank holds."
        )
    stored_words = f"{stored((m, n), rank):,} numbers instead of {m * n:,}; {chosen.full_run.title}"
    return (
        heading(full_finding(chosen, rank), origin_chip("measured"), sub=words)
        + f'<p class="meta">{escape(stored_words)}</p>'
    )


def full_figure(chosen: Chosen, rank: int) -> go.Figure | None:
    if chosen.full is None:
        return None
    rows = spectrum_rows(chosen.full.values, rank, MAX_RANK)
    return spectrum_figure(rows, look_of("lora").colour, height=150)


def layer_name(layer: int) -> str:
    return "outside the layers" if layer == OUTSIDE else str(layer)


_TITLE = "LoRA does the same to a weight matrix: W stays, B·A is laid over it"
_PAPERS = (
    '<p class="meta"><a href="https://arxiv.org/abs/2106.09685">Hu et al. 2021, LoRA</a> holds '
    "that the change fine-tuning needs has a low rank; "
    '<a href="https://arxiv.org/abs/2012.13255">Aghajanyan et al. 2020</a> found few dimensions '
    "to be enough to learn a task. Size is the Frobenius norm, energy its square; effective rank "
    "counts the directions that are used, weighted by their size (Roy &amp; Vetterli 2007).</p>"
)


def build(context: AppContext, entered: list[Any]) -> None:
    """Builds the panel; the `entered` events fill the lists and read an adapter."""
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
                gr.Slider, 1, MAX_RANK, USUAL_RANK, step=1, precision=0,
                label="Rank r over the full change",
            )  # fmt: skip
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
        return details(chosen, what, rank_within(r if is_same else chosen.matrix.rank, MAX_RANK))

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
        asked = rank_within(r, MAX_RANK)
        return [full_html(chosen, asked), full_figure(chosen, asked)]

    # "always_last": a choice made while another one is handled is not dropped.
    inputs = [state, name, layer, part, measure, full_name, rank]
    gr.on(entered, enter, inputs, [name, *shown], **QUIET)
    gr.on([name.input, layer.input, part.input, full_name.input], look, inputs, shown, **QUIET)
    measure.input(recolour, [state, measure], cells, **QUIET)
    rank.input(slide, [state, rank], [full_head, full_bars], **QUIET)


def _known(measure: str | None) -> str:
    return measure if measure in MEASURES else next(iter(MEASURES))
