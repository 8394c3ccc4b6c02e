"""What the Learn tab says of a weight matrix: found, computed and put into words; no events."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab import units
from ftlab.charts.learn import MAP_COLUMNS, change_map, spectrum_figure, spectrum_rows
from ftlab.errors import FtlabError, one_line
from ftlab.html import origin_chip
from ftlab.learn.adapter_change import OUTSIDE, AdapterChange, MatrixChange, read_adapter
from ftlab.learn.full_matrix import FullChange, full_change
from ftlab.learn.low_rank import kept, rank_for, stored
from ftlab.learn.weights import base_folder
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import look_of
from ftlab.playground.panes import (
    BROUGHT,
    SHIPPED,
    PaneSource,
    all_sources,
    find_source,
    wrong_base,
)
from ftlab.runs.store import RunStore
from ftlab.ui.html import blank, chip, escape, field_error, heading
from ftlab.ui.learn.parts import table

MAX_RANK = 64
"""The largest rank on the slider over the full change."""

_FIRST_PART = "q_proj"
_LORA_METHODS = ("lora", "qlora")
_NO_FULL = blank(
    "No full fine-tuning of this base to hold it against.",
    "Run full fine-tuning in Experiment: the change that it makes to this very matrix is then "
    "taken apart here, and a slider shows how much of it each rank would hold.",
)


@dataclass(frozen=True)
class Chosen:
    """One matrix of one adapter, beside the same matrix of a full fine-tuning.

    `full_runs` are those of the same base, newest first, and `full_run` the one of them that is
    held against it; then either `full` is its change or `why_not` says why it cannot be computed.
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
    """Adapters that can be looked into: own LoRA runs, newest first, then all others."""
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
    """The matrix of that adapter, where one is not there the nearest to it: first the middle
    layer's `q_proj`, against the newest full fine-tuning.

    `before` spares reading the same adapter again. Raises `FtlabError` if the adapter is gone, is
    no LoRA or is broken.
    """
    source = find_source(store.folder, source_name)
    is_read = before is not None and before.source.name == source.name
    change = before.change if before and is_read else _read(source)
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
    """The map of all matrices with the chosen one framed; `measure` is a key of `MEASURES`."""
    rows = [
        [m.layer, m.part, m.name, m.size, m.effective_rank, m.rank] for m in chosen.change.matrices
    ]
    table = pd.DataFrame(rows, columns=MAP_COLUMNS)
    return change_map(table, measure, chosen.matrix.name, chosen.colour)


def spectrum(chosen: Chosen) -> go.Figure:
    """The singular values of the adapter's change of the matrix."""
    matrix = chosen.matrix
    return spectrum_figure(spectrum_rows(matrix.values, matrix.rank), chosen.colour)


def finding(matrix: MatrixChange) -> str:
    """A sentence on what the adapter changes in the matrix, from its singular values."""
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
    """Where the adapter comes from."""
    if source.name.startswith(SHIPPED):
        return chip("ships with ftlab", "mute", "Trained by the app itself, and shipped with it")
    if source.name.startswith(BROUGHT):
        return chip("brought along", "mute", "An adapter from elsewhere")
    return origin_chip("measured")


def matrix_html(chosen: Chosen) -> str:
    """What B·A takes against the full change: of this matrix, and of all that are changed."""
    change, matrix = chosen.change, chosen.matrix
    m, n = matrix.shape
    counts = [
        (f"{matrix.name}: full change, {m:,} x {n:,}", m * n),
        (f"{matrix.name}: B·A at rank {matrix.rank}", matrix.numbers),
        (
            f"All {len(change.matrices)} matrices: full change",
            sum(each.shape[0] * each.shape[1] for each in change.matrices),
        ),
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
    """How much of the full change of that matrix a rank would hold, as a sentence."""
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
    """The heading over the figure of the full change, or why there is none."""
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


def rank_within(rank: float | None) -> int:
    """The rank asked for over the full change, within the slider's ends."""
    asked = 8 if rank is None or not np.isfinite(rank) else round(rank)
    return int(min(max(asked, 1), MAX_RANK))


def layer_name(layer: int) -> str:
    return "outside the layers" if layer == OUTSIDE else str(layer)


def _read(source: PaneSource) -> AdapterChange:
    if source.folder is None:
        raise FtlabError(f"'{source.label}' has no adapter; choose another.")
    return read_adapter(source.folder)
