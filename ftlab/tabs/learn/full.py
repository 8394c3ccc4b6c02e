"""Learn: full fine-tuning. Shows how much of each weight tensor it changes, and the cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.html import origin_chip
from ftlab.charts.learn import change_figure
from ftlab.learn.matrices import (
    base_folder,
    layer_changes,
    open_tensors,
    overall,
    tensor_changes,
    training_bytes,
)
from ftlab.methods.families.full import FULL
from ftlab.methods.spec import Paper
from ftlab.playground.panes import run_source
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import DTYPE_POLICIES, OPTIMIZERS
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import QUIET, choice, papers, plot, said, stack, table, tiles
from ftlab.tabs.widgets import H, Markup, blank, field_error, head, live, named

_ADAMW = Paper(
    "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization",
    "https://arxiv.org/abs/1711.05101",
)
_PHOTO = (
    "On the photo: repainting it stores a number for every pixel and colour. 200 x 300 pixels "
    "in three colours are 180,000 numbers, whatever the filter does."
)
_NO_RUN = blank(
    "No full fine-tuning of yours yet.",
    "Open Experiment, tick Full fine-tuning and press Launch. Its weights are then held against "
    "the base model's here, layer by layer.",
)

Changes = Callable[[Path, Path], pd.DataFrame]


@dataclass(frozen=True)
class View:
    """The panel's content. `figure` is `None` if there are no weights to compare."""

    options: list[tuple[str, str]]
    chosen: str | None
    change: str
    figure: go.Figure | None
    cost: str


def own_full_runs(store: RunStore) -> list[Run]:
    """Returns the finished full fine-tuning runs of this app, newest first."""
    return _done(store.runs(), FULL.id)[::-1]


def view(store: RunStore, chosen: str | None, changes: Changes) -> View:
    """Returns the content for the run with that id, else the newest, else the recorded one."""
    own = own_full_runs(store)
    options = [(run_source(run).title, run.run_id) for run in own]
    name = choice(options, chosen)
    run = next((run for run in own if run.run_id == name), None)
    change, figure = _change(run, changes) if run else (_NO_RUN, None)
    shown = run or next(iter(_done(store.shipped(), FULL.id)), None)
    return View(options, name, change, figure, cost_html(shown, store))


def measure_changes(base: Path, tuned: Path) -> pd.DataFrame:
    """Compares every tensor of the model in `tuned` with `base`; see `tensor_changes`."""
    return tensor_changes(open_tensors(base), open_tensors(tuned))


def _change(run: Run, changes: Changes) -> tuple[str, go.Figure | None]:
    try:
        tensors = changes(base_folder(run.spec.model), run.directory.adapter)
    except FtlabError as error:
        return field_error([str(error)]), None
    share, relative = overall(tensors)
    kind = run.result.measures.adapter_dtype if run.result else None
    still = ""
    if share < 0.95 and kind in ("bf16", "bfloat16"):
        still = (
            "All weights may move, yet many end where they began: bf16 keeps 8 significant bits, "
            "so a step smaller than half of the last one is rounded away."
        )
    shown = tiles(
        [
            (units.format_share(share), f"of the weights changed at all, in {kind or 'the file'}"),
            (units.format_share(relative), "size of the change against the weights"),
            (units.format_bytes(_measure(run, "adapter_bytes")), "to deliver for this one task"),
        ]
    )
    return stack(shown, said(still)), change_figure(layer_changes(tensors))


def cost_html(run: Run | None, store: RunStore) -> str:
    """HTML: computed bytes per weight in training, and the run's measured memory."""
    optimizer = run.spec.settings.optimizer if run else "adamw"
    parts = [training_bytes(policy, optimizer) for policy in DTYPE_POLICIES]
    own = run.spec.dtype_policy if run else None
    heads = ["bytes for each weight", *(f"{p} ◂" if p == own else p for p in DTYPE_POLICIES)]
    rows = [
        ["weight", *(_bytes(p.weight) for p in parts)],
        ["gradient", *(_bytes(p.gradient) for p in parts)],
        ["AdamW: mean of gradients", *(_bytes(p.first_moment) for p in parts)],
        ["AdamW: mean of their squares", *(_bytes(p.second_moment) for p in parts)],
        ["together", *(_bytes(p.total) for p in parts)],
    ]
    count = _measure(run, "total_params")
    if count:
        totals = (units.format_bytes(count * part.total) for part in parts)
        rows.append([f"times {units.format_count(count)} weights", *totals])
    shown = table(heads, rows, "Bytes held for each weight in training", strong_last=True)
    if run is None:
        return stack(shown, papers(FULL.paper, _ADAMW))
    how = (
        f"◂ the dtype policy of the run below; optimizer {OPTIMIZERS[optimizer]}. Activations come "
        "on top."
    )
    measured = said(how, _measured(run), _beside(run, store))
    return stack(shown, measured, papers(FULL.paper, _ADAMW))


def _measured(run: Run) -> str:
    kind = run.result.memory_kind if run.result else ""
    return Markup("{} {}: {} of memory while training{}, {} to deliver.").format(
        Markup(origin_chip(run.origin)),
        Markup(named(run.spec.method, run.spec.label)),
        units.format_bytes(_measure(run, "net_peak_memory_bytes")),
        f" ({kind})" if kind else "",
        units.format_bytes(_measure(run, "adapter_bytes")),
    )


def _beside(run: Run, store: RunStore) -> str:
    """HTML: the same arithmetic for a LoRA run of the same sweep; empty without one."""
    lora = next(iter(_done(store.sweep(run.spec.sweep_id), "lora")), None)
    trained, total = _measure(lora, "trainable_params"), _measure(lora, "total_params")
    if lora is None or not trained or not total:
        return ""
    each = training_bytes(lora.spec.dtype_policy, lora.spec.settings.optimizer, adapter=True)
    frozen = training_bytes(lora.spec.dtype_policy).weight
    sum_ = units.format_bytes(trained * each.total + (total - trained) * frozen)
    return Markup(
        "{} of that sweep, by the same arithmetic: {} bytes for each of the {} weights that learn "
        "and {} for each frozen one, {} in all."
    ).format(
        Markup(named("lora", lora.spec.label)),
        _bytes(each.total),
        units.format_count(trained),
        _bytes(frozen),
        sum_,
    )


def _done(runs: list[Run], method: str) -> list[Run]:
    return [run for run in runs if run.status == "done" and run.spec.method == method]


def _measure(run: Run | None, key: str) -> float | None:
    return getattr(run.result.measures, key) if run and run.result else None


def _bytes(value: float) -> str:
    return f"{value:.0f}" if value % 1 == 0 else f"{value:.2f}"


def build(context: AppContext) -> None:
    """Builds the panel and its events."""
    changes = lru_cache(maxsize=8)(measure_changes)
    with gr.Row(equal_height=True):
        with gr.Column(scale=3, min_width=340, elem_classes="ft-sheet"):
            head("Full fine-tuning repaints every pixel", sub=_PHOTO)
            run = live(gr.Dropdown, [], label="Your run", visible=False)
            change = H()
            figure = plot(visible=False)
        with gr.Column(scale=2, min_width=320, elem_classes="ft-sheet"):
            head(
                "What every weight costs while it learns",
                sub="worked out from the number formats (dtype policy); measured ones are marked",
            )
            cost = H()

    def show(chosen: str | None) -> list[Any]:
        shown = view(context.store, chosen, changes)
        return [
            gr.Dropdown(choices=shown.options, value=shown.chosen, visible=bool(shown.options)),
            shown.change,
            gr.Plot(value=shown.figure, visible=shown.figure is not None),
            shown.cost,
        ]

    outputs = [run, change, figure, cost]
    gr.on([opened(), run.input], show, run, outputs, **QUIET)
