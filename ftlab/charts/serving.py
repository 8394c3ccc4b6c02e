"""Cost of serving many customers: a full model for each, or one base and many adapters.

All values are sums of measured file sizes. The base's file is assumed to be as large as that of
full fine-tuning: it holds the same weights in the same dtype. This also applies to a method that
trained on a 4-bit base, because no 4-bit file was measured. Weights are assumed to take as much
memory as their file (the playground measured 10.5 MB for one more adapter of 9.8 MB). Memory of
running requests (activations, cache) is not included.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.units import format_bytes
from ftlab.basics.words import join_names
from ftlab.charts.drawing import empty_figure, figure, name_rows, plain
from ftlab.charts.facts import add_facts, left_out
from ftlab.charts.savings import adapters, full_row, times, variant_means
from ftlab.charts.spec import Amount, ChartSpec, Drawn, Facts, measured
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import BASE_LOOK, look_of

COLUMNS = [
    "variant", "method", "file_bytes", "base_bytes", "disk_bytes", "memory_bytes", "relative",
    "pays_from",
]  # fmt: skip
FIRST, MOST = 100, 1000
"""The number of customers: default and maximum."""

MOST_BARS = 12
_BAR_PIXELS = 30
_FRAME_PIXELS = 34  # the title of the x axis, and some padding


def serving_rows(table: pd.DataFrame, customers: int) -> pd.DataFrame:
    """One row per way to serve `customers` models at once; full fine-tuning first, then the best.

    `table` has the columns of `ROW_KEYS` and one sweep's runs. Sizes are in bytes: `file_bytes` of
    one model or adapter (mean over the runs), `base_bytes` of the shared base (0 for full models),
    `disk_bytes` of all files, `memory_bytes` of all weights in memory at once. `relative` is the
    sum divided by that of full models. `pays_from` is the least number of customers for whom the
    adapters take less (NaN: never). There are no rows if full fine-tuning's file was not measured.
    """
    if customers < 1:
        raise ValueError(f"customers is {customers}; it must be at least 1")
    means = variant_means(table)
    full = full_row(means)
    if full is None or not full["adapter_bytes"] > 0:  # NaN: not measured
        return pd.DataFrame(columns=COLUMNS)
    base = float(full["adapter_bytes"])
    together = base * customers
    rows = [[full["variant"], full["method"], base, 0.0, together, together, 1.0, math.nan]]
    for adapter in adapters(means).dropna(subset=["adapter_bytes"]).itertuples():
        file = float(adapter.adapter_bytes)
        total = base + customers * file
        rows.append(
            [
                adapter.variant, adapter.method, file, base, total, total, total / together,
                pays_from(base, file),
            ]
        )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def pays_from(base: float, adapter: float) -> float:
    """The least n for which base + n adapters take less than n full models of the base's size.

    This is the least integer above base / (base - adapter); NaN unless adapter < base.
    """
    return math.nan if adapter >= base else math.floor(base / (base - adapter)) + 1


def without_file(table: pd.DataFrame) -> list[str]:
    """Variants with a finished run whose file was not measured."""
    means = variant_means(table)
    return [str(name) for name in means[means["adapter_bytes"].isna()]["variant"]]


def weights_dtype(table: pd.DataFrame, full: bool) -> str:
    """The dtype of full fine-tuning's file, or of the adapters'; "" if unknown or not unique."""
    rows = table[(table["status"] == "done") & ((table["method"] == FULL.id) == full)]
    found = {str(dtype) for dtype in rows["adapter_dtype"].dropna() if dtype}
    return found.pop() if len(found) == 1 else ""


def serving_finding(facts: Facts) -> str:
    """The total size of full models and of the best adapter's files; or what is missing for it."""
    table, customers = facts.table, _customers(facts)
    rows = serving_rows(table, customers)
    if rows.empty:
        return _no_full_model(table)
    if len(rows) == 1:
        names = [name for name in without_file(table) if name != rows["variant"].iloc[0]]
        if names:
            return f"The file of {join_names(names)} was not measured, so nothing can be added up."
        return "No adapter is done in this sweep; run a method other than full fine-tuning."
    full, best = rows.iloc[0], rows.iloc[1]
    many = customers > 1
    models = f"{customers:,} full models take" if many else "one full model takes"
    which = (
        f"{customers:,} {best['variant']} adapters" if many else f"one {best['variant']} adapter"
    )
    sentence = (
        f"{customers:,} customer{'s' if many else ''}: {models} "
        f"{format_bytes(full['disk_bytes'])}; one base and {which} take "
        f"{format_bytes(best['disk_bytes'])}, {_against(best['relative'])}."
    )
    return sentence if best["relative"] < 1 else f"{sentence} {break_even(best)}"


def break_even(row: Any) -> str:
    """From how many customers the adapters of that row take less than full models."""
    if math.isnan(row["pays_from"]):
        return (
            f"One {row['variant']} file is not smaller than a full model, "
            "so adapters never take less."
        )
    return f"From {row['pays_from']:,.0f} customers on the adapters take less."


def serving_figure(facts: Facts) -> go.Figure:
    """Stacked bars in bytes: one base (hatched, grey), and the files of all customers."""
    table, customers = facts.table, _customers(facts)
    rows = serving_rows(table, customers).head(MOST_BARS)
    height = _FRAME_PIXELS + _BAR_PIXELS * max(1, len(rows))
    if rows.empty:
        return empty_figure("not measured", height)
    fig = figure(height, margin={"r": 8, "t": 0}, bargap=0.3, barmode="stack")
    places = list(range(len(rows)))
    sums = [f" {times(row.relative)}  {format_bytes(row.disk_bytes)}" for row in rows.itertuples()]
    hover = [_hover(row, customers) for row in rows.itertuples()]
    shared: dict[str, Any] = {
        "y": places,
        "orientation": "h",
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    fig.add_bar(
        x=rows["base_bytes"].tolist(),
        name="one base",
        marker={
            "color": BASE_LOOK.colour,
            "line_width": 0,
            "pattern": {"shape": "/", "size": 5, "solidity": 0.35},
        },
        **shared,
    )
    fig.add_bar(
        x=(rows["file_bytes"] * customers).tolist(),
        name="a file for each customer",
        marker={"color": [look_of(method).colour for method in rows["method"]], "line_width": 0},
        **shared,
    )
    fig.add_scatter(
        x=rows["disk_bytes"].tolist(),
        y=places,
        mode="text",
        text=sums,
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        name="in all",
    )
    fig.update_xaxes(
        range=[0, 1.75 * float(rows["disk_bytes"].max())],
        showgrid=False,
        showticklabels=False,
        title_text="bytes of files, and of weights in memory: lower is better",
    )
    names = zip(rows["variant"], rows["method"], strict=True)
    name_rows(fig, names, places, (-0.5, len(rows) - 0.5), x_ticks=False)
    measured, _ = left_out(table, "adapter_bytes")
    return add_facts(fig, measured[measured["variant"].isin(rows["variant"])])


def _no_full_model(table: pd.DataFrame) -> str:
    means = variant_means(table)
    if means.empty:
        return "No run of this sweep is done, so no file of it was measured."
    if full_row(means) is None:
        return (
            "What full models would take is not known: no full fine-tuning run is done in this "
            "sweep. Its file also gives the size of the base."
        )
    return (
        "What full models would take is not known: the file of full fine-tuning was not measured "
        "in this sweep."
    )


def _against(relative: float) -> str:
    """0.046 -> "22 times less"; 1.04 -> "1.04 times as much"."""
    if 0.995 <= relative < 1.005:
        return "about the same"
    if relative > 1:
        return f"{relative:.2f} times as much"
    less = 1 / relative
    return f"{less:,.0f} times less" if less >= 9.95 else f"{less:.1f} times less"


def _hover(row: Any, customers: int) -> str:
    copies = f"{customers:,} x {format_bytes(row.file_bytes)}"
    parts = f"{format_bytes(row.base_bytes)} + {copies}" if row.base_bytes else copies
    text = f"{plain(row.variant)}: {parts} = {format_bytes(row.disk_bytes)}"
    if not row.base_bytes:
        return text
    pays = "never" if math.isnan(row.pays_from) else f"from {row.pays_from:,.0f} customers on"
    return f"{text}<br>{times(row.relative)} of full models; less than them {pays}"


def _drawn(facts: Facts) -> Drawn:
    """The measured runs; none unless there are a full model and an adapter to compare."""
    shown = measured(facts.table, "adapter_bytes")
    enough = len(serving_rows(facts.table, 1)) > 1
    return shown if enough else Drawn(shown.rows.iloc[:0], shown.left_out)


def _customers(facts: Facts) -> int:
    return int(facts.chosen.get("customers", FIRST))


SERVING = ChartSpec(
    id="serving",
    name="Storage and serving",
    drawn=_drawn,
    finding=serving_finding,
    figure=serving_figure,
    reading="Storage and serving: files on disk, and weights in memory to serve all at once",
    choices=(Amount("customers", "Customers or tasks", MOST),),
    hides=True,
)
CHARTS = (SERVING,)
