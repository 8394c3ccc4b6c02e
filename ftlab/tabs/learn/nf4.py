"""Learn: QLoRA's 16 levels, shown on a block of the bundled model's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.html import origin_chip
from ftlab.charts.learn import block_figure, levels_figure
from ftlab.learn.matrices import Tensors, base_folder, matrices, open_tensors
from ftlab.learn.nf4 import (
    BLOCK,
    EVEN,
    NF4,
    Quantised,
    bits_per_weight,
    error_of,
    levels_used,
    normal_error,
    quantise,
)
from ftlab.methods.families.quantised import QLORA
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import (
    QUIET,
    choose_place,
    moved,
    papers,
    plot,
    said,
    stack,
    table,
    tiles,
)
from ftlab.tabs.widgets import H, Markup, blank, head, heading, live, named

_ROUNDED_BEFORE = (
    "The bundled weights were rounded to 4 bits once before (Q4_1: 16 evenly spaced values for "
    "every 32 of a row), so within a block they take few values. The row of random numbers is free "
    "of that."
)
_LEGEND = (
    '<p class="legend"><span><span aria-hidden="true">○</span> the weight</span>'
    '<span><span class="dia" aria-hidden="true">◆</span> in 4 bits</span>'
    "<span>the line between them is the error, each line across is one of 16 levels</span></p>"
)


@dataclass(frozen=True)
class Matrix:
    """A weight matrix in 16 bits, and quantised in blocks to NF4 and to evenly spaced levels.

    `errors` are relative, (NF4, even), on the whole matrix; `normal` are those of random numbers.
    """

    weights: NDArray[np.float32]
    nf4: Quantised
    even: Quantised
    errors: tuple[float, float]
    normal: tuple[float, float]

    @property
    def blocks(self) -> int:
        return len(self.nf4.absmax)

    def block(self, number: int) -> tuple[NDArray[np.float32], ...]:
        """Returns the block's weights, NF4 and even values, each (64,); blocks count from 1."""
        cut = slice((number - 1) * BLOCK, number * BLOCK)
        return tuple(
            values.reshape(-1)[cut]
            for values in (self.weights, self.nf4.restored, self.even.restored)
        )


@dataclass(frozen=True)
class View:
    """The panel's content for one block of one matrix."""

    block: int
    blocks: int
    figure: go.Figure
    numbers: str
    levels: str
    used: go.Figure
    errors: str


ReadMatrix = Callable[[int, str], Matrix]


def bundled_tensors() -> Tensors:
    """Opens the bundled model; raises `FtlabError` with the command to run if it is missing."""
    return open_tensors(base_folder(BUNDLED_ID))


def read_matrix(layer: int, module: str) -> Matrix:
    """Reads and quantises a matrix; raises `FtlabError` if the matrix or the model is missing."""
    tensors = bundled_tensors()
    name = matrices(tensors.names).get((layer, module))
    if name is None:
        raise FtlabError(f"The bundled model has no {module} in layer {layer}; choose another.")
    weights = tensors.read(name)
    nf4, even = quantise(weights), quantise(weights, EVEN)
    errors = error_of(weights, nf4.restored).relative, error_of(weights, even.restored).relative
    return Matrix(weights, nf4, even, errors, (normal_error(NF4), normal_error(EVEN)))


def view(layer: int, module: str, block: float | None, read: ReadMatrix) -> View:
    """Returns the content for that block, counted from 1; clamps a number out of range."""
    matrix = read(layer, module)
    number = int(min(max(block or 1, 1), matrix.blocks))
    weights, restored, _ = matrix.block(number)
    absmax = float(matrix.nf4.absmax[number - 1])
    frame = pd.DataFrame({"weight": weights.astype(float), "restored": restored.astype(float)})
    used = levels_used(matrix.nf4.codes) / matrix.weights.size
    return View(
        number,
        matrix.blocks,
        block_figure(frame, pd.DataFrame({"value": (NF4 * np.float32(absmax)).astype(float)})),
        _numbers(weights, restored, absmax),
        heading(levels_words(used), sub=f"Figure: share of all weights of this {module} on each"),
        levels_figure(pd.DataFrame({"level": NF4.astype(float), "share": used})),
        errors_html(matrix, number, module),
    )


def _numbers(weights: NDArray[np.float32], restored: NDArray[np.float32], absmax: float) -> str:
    error = error_of(weights, restored)
    of_absmax = units.format_share(error.largest / absmax if absmax else None)
    double = bits_per_weight(double=True)
    return tiles(
        [
            (f"{absmax:.3f}", "absmax: the largest weight, which the levels are stretched to"),
            (
                units.format_share(error.relative),
                f"error of the block (root mean square {error.rms:.4f})",
            ),
            (f"{error.largest:.4f}", f"largest error, {of_absmax} of absmax"),
            (
                f"{bits_per_weight():.1f} bits",
                f"a weight: 4 + 32/{BLOCK}; {double:.3f} with double quantisation",
            ),
        ]
    )


def levels_words(used: NDArray[np.float64]) -> str:
    """Returns a sentence on how many levels are used and how evenly, from their shares."""
    taken = int((used > 0).sum())
    least, most = units.format_share(used.min()), units.format_share(used.max())
    if taken == len(used):
        return f"All {taken} levels are used, from {least} to {most} of the weights each"
    return f"{taken} of {len(used)} levels are used, at most for {most} of the weights"


def errors_html(matrix: Matrix, number: int, module: str) -> str:
    """HTML: the errors of NF4 and of evenly spaced levels in a block, and which is smaller."""
    weights, restored, even = matrix.block(number)

    def pair(name: str, nf4: float, plain: float) -> list[str]:
        return [name, units.format_share(nf4), units.format_share(plain)]

    whole, plain = matrix.errors
    rows = [
        pair("this block", error_of(weights, restored).relative, error_of(weights, even).relative),
        pair(f"all of this {module}", whole, plain),
        pair("random normal numbers", *matrix.normal),
    ]
    better = (
        f"On the whole matrix NF4 errs by {units.format_share(whole)} of the weights' size, evenly "
        f"spaced levels (−7 to 7) by {units.format_share(plain)}"
    )
    why = (
        ": weights crowd round zero, and so do NF4's levels."
        if whole < plain
        else ": here the even ones do no worse."
    )
    shown = table(["error, of the weights' size", "NF4", "even"], rows, "Errors of 4-bit levels")
    return stack(said(better + why), shown, said(_ROUNDED_BEFORE))


def model_html(tensors: Tensors, store: RunStore) -> str:
    """HTML: the size of the bundled model in 4 bits, computed, and measured if runs exist."""
    linear = sum(int(np.prod(tensors.shape(n))) for n in matrices(tensors.names).values())
    total = sum(int(np.prod(tensors.shape(name))) for name in tensors.names)
    small = linear * bits_per_weight(double=True) / 8
    rest = 2.0 * (total - linear)
    size = units.format_bytes
    rows = [
        [f"linear layers, {units.format_count(linear)}", size(2.0 * linear), size(small)],
        [f"embeddings and norms, {units.format_count(total - linear)}", size(rest), size(rest)],
        ["the model", size(2.0 * total), size(small + rest)],
    ]
    heads = ["weights held", "16 bits", "NF4, double q."]
    shown = table(heads, rows, "Bytes of the model's weights", strong_last=True)
    return stack(shown, said(_measured(store)), papers(QLORA.paper))


def _measured(store: RunStore) -> str:
    """HTML: net peaks of LoRA and QLoRA from the newest sweep with both; own sweeps first."""
    runs = store.table()
    key = "net_peak_memory_bytes"
    done = runs[(runs["status"] == "done") & (runs[key] > 0) & (runs["origin"] != "imported")]
    for (origin, _), sweep in done.groupby(["origin", "sweep_id"], sort=False):
        means = sweep.groupby("method")[key].mean()
        if "lora" in means and "qlora" in means:
            lora, qlora = float(means["lora"]), float(means["qlora"])
            saved = 1 - qlora / lora
            verdict = (
                f"{units.format_share(saved)} less"
                if saved >= 0.005
                else "at this size 4 bits saved nothing at the peak"
            )
            return Markup("{} memory while training: {} {}, {} {}: {}.").format(
                Markup(origin_chip(origin)),
                Markup(named("lora")),
                units.format_bytes(lora),
                Markup(named("qlora")),
                units.format_bytes(qlora),
                verdict,
            )
    return ""


def build(context: AppContext) -> None:
    """Builds the panel and its events."""
    read = lru_cache(maxsize=4)(read_matrix)
    missing = H(visible=False)
    with gr.Row(equal_height=True, visible=False) as page:
        with gr.Column(scale=3, min_width=340, elem_classes="ft-sheet"):
            head(
                "QLoRA holds every weight as one of 16 levels",
                sub=f"{BLOCK} weights of the bundled model share one scale, their largest (absmax)",
            )
            with gr.Row(elem_classes="ft-learn-tools"):
                layer, module = choose_place()
                block = live(gr.Slider, 1, 2, 1, step=1, label="Block", min_width=150)
            figure = plot()
            H(_LEGEND)
            numbers = H()
        with gr.Column(scale=2, min_width=320, elem_classes="ft-sheet"):
            levels = H()
            used = plot()
            errors = H()
            head("What that makes of the model")
            model = H()

    details = [layer, module, block, figure, numbers, levels, used, errors]

    def enter(at: float, name: str, number: float) -> list[Any]:
        try:
            tensors = bundled_tensors()
        except FtlabError as error:
            sentence = blank("The weights are not here.", str(error))
            hidden = [gr.Row(visible=False), *[gr.skip()] * (len(details) + 1)]
            return [gr.HTML(value=sentence, visible=True), *hidden]
        shown = gr.HTML(visible=False), gr.Row(visible=True)
        return [*shown, *show(at, name, number), model_html(tensors, context.store)]

    def show(at: float, name: str, number: float) -> list[Any]:
        places = list(matrices(bundled_tensors().names))
        layers = max(place[0] for place in places)
        names = sorted({place[1] for place in places})
        layer_shown = int(min(at or 0, layers))
        module_shown = name if name in names else names[0]
        seen = view(layer_shown, module_shown, number, read)
        return [
            # gradio does not accept a slider with a single value
            gr.Slider(maximum=max(1, layers), **moved(at, layer_shown)),
            gr.Dropdown(choices=names, value=module_shown),
            gr.Slider(
                maximum=max(2, seen.blocks),
                label=f"Block, of {seen.blocks:,}",
                **moved(number, seen.block),
            ),
            seen.figure,
            seen.numbers,
            seen.levels,
            seen.used,
            seen.errors,
        ]

    inputs = [layer, module, block]
    gr.on([opened()], enter, inputs, [missing, page, *details, model], **QUIET)
    gr.on([layer.input, module.input, block.input], show, inputs, details, **QUIET)
