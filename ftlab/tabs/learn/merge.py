"""Learn: merging. Shows on real numbers that merged and separate weights give the same output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.learn import MARKS, outputs_figure
from ftlab.learn.matrices import Lora, Tensors, base_folder, matrices, open_lora, open_tensors
from ftlab.learn.nf4 import MAX_SEED, compare_outputs, differences, merged_weights, multiplications
from ftlab.methods.families.lora import LORA
from ftlab.methods.families.quantised import QLORA
from ftlab.playground.panes import WEIGHTS_FILE, PaneSource, all_sources
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import (
    FIRST,
    QUIET,
    choice,
    choose_place,
    moved,
    papers,
    plot,
    said,
    stack,
    table,
    whole_number,
)
from ftlab.tabs.widgets import H, blank, field_error, head, live

_NAMES = {"fp32": "32 bits", "bf16": "16 bits (bf16)", "nf4": "4 bits (NF4)"}
_DRAWN = 160  # most outputs drawn, evenly spaced, so that points do not hide each other
_NO_ADAPTER = blank(
    "No LoRA to merge.",
    "Open Experiment, tick LoRA and press Launch. Its adapter is then merged here.",
)


@dataclass(frozen=True)
class Opened:
    """An adapter with its base; `places` maps (layer, module) to the matrices that it changes."""

    source: PaneSource
    lora: Lora
    base: Tensors
    places: dict[tuple[int, str], str]

    def nearest(self, layer: float | None, module: str | None) -> tuple[int, str]:
        """Returns the nearest layer that the adapter changes, and the module or else any in it."""
        wanted = FIRST[0] if layer is None else int(layer)
        at = min({place[0] for place in self.places}, key=lambda known: abs(known - wanted))
        modules = [name for known, name in self.places if known == at]
        asked = module or FIRST[1]
        return at, asked if asked in modules else modules[0]


def sources(context: AppContext) -> list[PaneSource]:
    """Returns LoRA before QLoRA adapters: own runs, newest first, then uploaded and shipped."""
    everyone = all_sources(context.store.runs(), context.runs_folder)
    able = [source for source in everyone if source.method in (LORA.id, QLORA.id)]
    return sorted(able, key=lambda source: source.method != LORA.id)


def open_source(source: PaneSource) -> Opened:
    """Opens adapter and base; raises `FtlabError` if one is missing, broken, or they do not fit."""
    assert source.folder is not None
    base = open_tensors(base_folder(source.model))
    lora = open_lora(source.folder)
    places = {place: name for place, name in matrices(base.names).items() if name in lora.weights}
    if not places:
        raise FtlabError(
            "The adapter changes no projection of a layer of this base model; choose another."
        )
    return Opened(source, lora, base, places)


def shown_html(found: pd.DataFrame) -> str:
    """HTML: how each merged matrix differs from separate base and adapter, with an explanation."""
    rows = [
        [
            f"{MARKS[row.held][1]} {_NAMES[row.held]}",
            f"{row.largest:.2g}",
            units.format_share(row.relative) if row.relative >= 1e-5 else "under 0.001 %",
            _rounding(row.lost),
        ]
        for row in found.itertuples()
    ]
    heads = ["merged matrix in", "largest difference", "of the outputs", "rounding, of the change"]
    by_held = found.set_index("held")
    lost = float(by_held.loc["bf16", "lost"])
    words = [
        "In 32 bits both are the same number, up to the order in which products are added.",
        "Rounded to 16 bits the sum W + s·B·A loses what lies below 8 significant bits"
        + (f": here {units.format_share(lost)} of the adapter's change." if lost == lost else "."),
        "In 4 bits the rounding is larger than the change itself, and what the adapter learnt is "
        "lost in it: beside a 4-bit base an adapter stays apart."
        if float(by_held.loc["nf4", "lost"]) > 1
        else "",
    ]
    return stack(table(heads, rows, "Differences from base and adapter apart"), said(*words))


def _rounding(lost: float) -> str:
    """Returns the loss from rounding the matrix, relative to the adapter's change."""
    if lost == 0:
        return "none"
    return f"{lost:.1f} times" if lost >= 1 else units.format_share(lost)


def cost_html(opened_: Opened) -> str:
    """HTML: multiplications per token and bytes on disk, separate and merged, whole adapter."""
    apart = merged = 0
    for name in opened_.places.values():
        out, width = opened_.base.shape(name)
        rank = opened_.lora.pair(name).rank
        both = multiplications(out, width, rank)
        apart, merged = apart + both[0], merged + both[1]
    assert opened_.source.folder is not None
    adapter = (opened_.source.folder / WEIGHTS_FILE).stat().st_size
    base = sum(file.stat().st_size for file in opened_.base.place.glob("*.safetensors"))
    more = units.format_share(apart / merged - 1)
    rows = [
        ["multiplications a token", units.format_count(apart), units.format_count(merged)],
        ["on disk, one task", units.format_bytes(base + adapter), units.format_bytes(base)],
        [
            "on disk, 10 tasks",
            units.format_bytes(base + 10 * adapter),
            units.format_bytes(10 * base),
        ],
    ]
    words = (
        f"Merged, the adapter's {more} more multiplications are gone, but the model's whole file "
        "is there again for every task."
    )
    costs = table(["cost", "apart", "merged"], rows, "What apart and merged cost")
    return stack(costs, said(words, _remark(opened_.source)), papers(LORA.paper))


def _remark(source: PaneSource) -> str:
    if source.base_precision is None:
        return ""
    return (
        f"This adapter was trained on a base in {source.base_precision.upper()}; here it is merged "
        "into the 16-bit one, which differs a little from what it learnt on."
    )


def draw(opened_: Opened, place: tuple[int, str], seed: int) -> tuple[go.Figure, str]:
    """Returns the figure and the table of differences for one matrix and one input."""
    name = opened_.places[place]
    weight, pair = opened_.base.read(name), opened_.lora.pair(name)
    merged = merged_weights(weight, pair)
    outputs = compare_outputs(weight, pair, merged, seed)
    return outputs_figure(outputs[:: -(-len(outputs) // _DRAWN)]), shown_html(
        differences(outputs, weight, merged)
    )


def build(context: AppContext) -> None:
    """Builds the panel and its events."""
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
            head(
                "Merged or apart, the output is the same",
                sub="The adapter beside the weights, W·x + s·B·(A·x), against the adapter added to "
                "them, (W + s·B·A)·x, for an x of random numbers",
            )
            adapter = live(gr.Dropdown, [], label="Adapter", visible=False)
            with gr.Row(elem_classes="ft-learn-tools", visible=False) as tools:
                layer, module = choose_place()
                seed = live(gr.Number, 0, label="Seed of x", precision=None, min_width=90)
            wrong = H()
            figure = plot(visible=False)
            legend = H(_LEGEND, visible=False)
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet", visible=False) as beside:
            head("How far apart are they?")
            found = H()
            head("What each costs")
            cost = H()

    def show(name: str | None, at: float, part: str, number: float | None) -> list[Any]:
        able = sources(context)
        options = [(source.title, source.name) for source in able]
        chosen = choice(options, name)
        source = next((source for source in able if source.name == chosen), None)
        picker = gr.Dropdown(choices=options, value=chosen, visible=bool(options))
        if source is None:
            return [picker, gr.Row(visible=False), *nothing(_NO_ADAPTER)]
        try:
            found_ = open_source(source)
            place = found_.nearest(at, part)
            drawn, told = draw(found_, place, whole_number(number, "Seed of x", MAX_SEED))
        except FtlabError as error:
            return [picker, gr.skip(), *nothing(field_error([str(error)]))]
        names = [known for near, known in found_.places if near == place[0]]
        top = max(near for near, _ in found_.places)
        return [
            picker,
            gr.Row(visible=True),
            gr.Slider(maximum=max(1, top), **moved(at, place[0])),
            gr.Dropdown(choices=names, value=place[1]),
            "",
            gr.Plot(value=drawn, visible=True),
            gr.HTML(visible=True),
            gr.Column(visible=True),
            told,
            cost_html(found_),
        ]

    def nothing(sentence: str) -> list[Any]:
        hidden = [gr.Plot(visible=False), gr.HTML(visible=False), gr.Column(visible=False)]
        return [gr.skip(), gr.skip(), sentence, *hidden, gr.skip(), gr.skip()]

    inputs = [adapter, layer, module, seed]
    outputs = [adapter, tools, layer, module, wrong, figure, legend, beside, found, cost]
    used = [adapter.input, layer.input, module.input, seed.input]
    gr.on([opened(), *used], show, inputs, outputs, **QUIET)


_LEGEND = (
    '<p class="legend"><span>a point an output (some of them); on the dotted line both agree</span>'
    f'<span><span class="lo" aria-hidden="true">{MARKS["fp32"][1]}</span> 32 bits</span>'
    f'<span><span aria-hidden="true">{MARKS["bf16"][1]}</span> 16 bits</span>'
    f'<span><span class="dia" aria-hidden="true">{MARKS["nf4"][1]}</span> 4 bits</span></p>'
)
