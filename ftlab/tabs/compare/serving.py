"""Storage and serving in the Compare tab: file sizes for many customers, with slider and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd

from ftlab.basics import units
from ftlab.basics.words import join_names
from ftlab.charts.served import served_figure
from ftlab.charts.serving import (
    FIRST,
    MOST,
    MOST_BARS,
    SERVING,
    serving_rows,
    weights_dtype,
    without_file,
)
from ftlab.charts.spec import Facts, worded
from ftlab.methods.families.full import FULL
from ftlab.models.reference import parse_model
from ftlab.records.serving import ServingPoint, ServingRecord, record_of, serving_records
from ftlab.records.store import SweepData
from ftlab.settings.generation import PRECISIONS
from ftlab.tabs.compare.layout import Section
from ftlab.tabs.compare.view import image_buttons, unlike_html
from ftlab.tabs.context import NO_OVERLAY, AppContext
from ftlab.tabs.widgets import H, chip, escape, field_error, heading, note_html, plural, swatch
from ftlab.tabs.widgets import table as html_table

STOPS = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400,
    500, 600, 800, 1000,
)  # fmt: skip
"""The values of the slider: each is about a fifth larger, to cover small and large numbers."""

_SEND = """const range = element.querySelector('input[type=range]');
const number = element.querySelector('input[type=number]');
const stops = range.dataset.stops.split(' ').map(Number);
let waiting;
const say = () => range.setAttribute('aria-valuetext', `${number.value} customers`);
const send = () => {
  say();
  clearTimeout(waiting);
  waiting = setTimeout(() => trigger('input', { customers: number.value }), 60);
};
range.addEventListener('input', () => { number.value = stops[range.value]; send(); });
number.addEventListener('input', () => {
  range.value = Math.max(0, stops.findLastIndex((stop) => stop <= Number(number.value)));
  send();
});
say();"""


def build(context: AppContext) -> Section:
    """Builds the section with its slider; a move redraws from the last data, not from the store."""
    shown = gr.State(None)  # (table, origin) of the sweep
    customers = gr.State(FIRST)
    with gr.Column(elem_classes="ft-sheet ft-picture"):
        title = H()
        chooser = H(chooser_html(FIRST), js_on_load=_SEND)
        wrong = H()
        figure = gr.Plot(show_label=False, container=False, elem_classes="ft-fig")
        notes = H()
        served = H()
        curve = gr.Plot(show_label=False, container=False, elem_classes="ft-fig", visible=False)
        numbers = H()

    def draw(data: tuple[pd.DataFrame, str] | None, count: int) -> list[Any]:
        if data is None:
            return [gr.skip()] * 3
        table, origin = data
        return [
            title_html(table, origin, count),
            gr.Plot(SERVING.figure(facts_of(table, count)), visible=has_figure(table)),
            notes_html(table, count),
        ]

    def choose(data: tuple[pd.DataFrame, str] | None, event: gr.EventData) -> list[Any]:
        count, error = read_customers(getattr(event, "customers", None))
        if count is None:
            return [gr.skip(), field_error([error]), *[gr.skip()] * 3]
        return [count, "", *draw(data, count)]

    quiet: dict[str, Any] = NO_OVERLAY | {
        "api_visibility": "private",
        "trigger_mode": "multiple",  # always_last would send the number of an earlier move
    }
    drawn = [title, figure, notes]
    # One at a time, so that results of two moves arrive in order.
    chooser.input(choose, shown, [customers, wrong, *drawn], concurrency_limit=1, **quiet)
    shown.change(draw, [shown, customers], drawn, concurrency_limit=None, **quiet)

    def show(data: SweepData) -> list[Any]:
        record = measured_of(data.table, serving_records(context.runs_folder))
        drawn = gr.Plot(visible=False)
        if record is not None:
            drawn = gr.Plot(served_figure(record), visible=True)
        return [
            (data.table, data.origin),
            served_html(record, data, context.access.may_train),
            drawn,
            "" if record is None else numbers_html(record),
        ]

    return Section((shown, served, curve, numbers), show)


def read_customers(given: Any) -> tuple[int | None, str]:
    """Returns the number in the field and "", or `None` and an error message."""
    try:
        value = float(str(given))
    except ValueError:
        value = float("nan")
    if value.is_integer() and 1 <= value <= MOST:
        return int(value), ""
    shown = str(given if given is not None else "").strip()[:20] or "empty"
    return None, f"Customers is {shown}; it must be a whole number from 1 to {MOST:,}."


def chooser_html(customers: int) -> str:
    """HTML: the slider over `STOPS`, and a field for any number beside it."""
    place = STOPS.index(customers)
    return (
        '<div class="customers"><label for="serving-range">Customers or tasks, '
        "each with a model of its own</label>"
        f'<input id="serving-range" type="range" min="0" max="{len(STOPS) - 1}" value="{place}" '
        f'aria-valuetext="{customers} customers" data-stops="{" ".join(map(str, STOPS))}">'
        f'<input type="number" min="1" max="{MOST}" step="1" value="{customers}" '
        'aria-label="Number of customers or tasks"></div>'
    )


def facts_of(table: pd.DataFrame, customers: int) -> Facts:
    """Returns the data of the chart for that number of customers."""
    return Facts(table, chosen={"customers": customers})


def has_figure(table: pd.DataFrame) -> bool:
    """True if there is a fully fine-tuned model and an adapter to compare with it."""
    return not SERVING.drawn(Facts(table)).rows.empty


def _sizes(origin: str) -> str:
    return "sizes from another machine" if origin == "opened" else f"from {origin} sizes"


def title_html(table: pd.DataFrame, origin: str, customers: int) -> str:
    """HTML: the finding as the section's heading, with the origin of the sizes."""
    facts = facts_of(table, customers)
    source = chip(_sizes(origin), origin, "Sums of file sizes of this sweep")
    finding = SERVING.finding(facts)
    return heading(
        finding,
        source,
        *([image_buttons(SERVING.id, finding)] if has_figure(table) else []),
        sub=worded(SERVING.reading, facts),
    )


def notes_html(table: pd.DataFrame, customers: int) -> str:
    """HTML: the sizes that are added up and what is left out; empty if there is no sum."""
    rows = serving_rows(table, customers)
    if len(rows) < 2:
        return ""
    full = rows.iloc[0]
    sizes = "".join(
        f"<span>{swatch(row.method)}{escape(row.variant)} "
        f"{units.format_bytes(row.file_bytes)}</span>"
        for row in rows.head(MOST_BARS).itertuples()
    )
    return (
        f'<p class="meta keys"><b>One file</b>{sizes}'
        f'<span><i class="hatch"></i>the base, once {units.format_bytes(full["file_bytes"])}</span>'
        f'</p><p class="meta">{escape(" ".join(_words(table, rows)))}</p>'
        f"{unlike_html(SERVING.drawn(Facts(table)).unlike)}"
    )


def _words(table: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    dtype, own = weights_dtype(table, full=True), weights_dtype(table, full=False)
    same = f"the same weights in {dtype}" if dtype else "the same weights in the same dtype"
    words = [f"The base's file is as large as that of full fine-tuning: {same}."]
    if own and own != dtype:
        words.append(f"Adapters are counted as they were saved, in {own}.")
    if "qlora" in set(rows["method"]):
        words.append(
            "QLoRA's adapters are counted on that base too: a 4-bit base takes less, but no file "
            "of one was measured."
        )
    words.append(
        "Weights take as many bytes in memory as on disk; what an answer under way needs comes "
        "on top."
    )
    missing = without_file(table)
    if missing:
        words.append(
            f"{plural(len(missing), 'variant')} left out, file not measured: {join_names(missing)}."
        )
    if len(rows) > MOST_BARS:
        words.append(
            f"Drawn are full fine-tuning and the {MOST_BARS - 1} best by score of "
            f"{len(rows) - 1} adapters."
        )
    return words


def measured_of(table: pd.DataFrame, records: Sequence[ServingRecord]) -> ServingRecord | None:
    """The measurement of this sweep's best adapter that has one; `None` if none was measured."""
    models = {parse_model(str(model)).name for model in table["model"].dropna()}
    for row in serving_rows(table, 1).itertuples():
        for model in models:
            found = record_of(records, model, row.method, row.file_bytes)
            if found is not None:
                return replace(found, label=row.variant)  # that of another adapter of this size
    return None


def served_html(record: ServingRecord | None, data: SweepData, may_train: bool = True) -> str:
    """HTML: what was measured as a heading; else the command that measures it."""
    if record is not None:
        machine = str(record.environment.get("device", ""))
        words = ", ".join(filter(None, [record.origin, machine]))
        return heading(
            record.sentence,
            chip(words, record.origin, "Measured with the models in memory, not added up"),
            sub="Models in memory at once, each with weights of its own: one prompt a model, "
            f"{record.new_tokens} tokens an answer, base in {PRECISIONS[record.precision]}",
        )
    able = {
        run.spec.label: run.run_id
        for run in data.own_runs
        if run.has_weights and run.spec.variant and run.spec.variant.spec.is_adapter
    }
    best = [able[name] for name in serving_rows(data.table, 1)["variant"] if name in able]
    if data.origin != "measured" or not may_train or not best:
        return ""
    return note_html(
        "These are sums of file sizes. To measure memory, loading and answers a second of 1 to 64 "
        f"adapters and full models: python -m ftlab serving {best[0]}"
    )


def numbers_html(record: ServingRecord) -> str:
    """HTML: a row for each number of models, adapters beside full models."""
    full = {point.count: point for point in record.full_models}
    rows = [
        [
            f"{point.count:,}",
            *_cells(point),
            units.format_seconds(point.swap_seconds),
            *_cells(full.get(point.count)),
        ]
        for point in record.adapters
    ]
    adapter = [f"{record.label}, {head}" for head in (*_HEADS, "swap")]
    heads = ["Models", *adapter, *(f"full models, {head}" for head in _HEADS)]
    keys = (
        f'<p class="meta keys"><span>{swatch(record.method)}{escape(record.label)} on one base'
        f"</span><span>{swatch(FULL.id)}full models</span></p>"
    )
    words = (
        "Loading: the time to read all of them. Swap: the time before the next prompt until all "
        "loaded adapters can answer it."
    )
    stopped = f" The full models end there: {record.stopped}." if record.stopped else ""
    return keys + html_table(heads, rows) + note_html(words + stopped)


_HEADS = ("memory", "loading", "answers/s")


def _cells(point: ServingPoint | None) -> list[str]:
    if point is None:
        return ["–"] * len(_HEADS)
    memory = "–" if point.memory_bytes is None else units.format_bytes(point.memory_bytes)
    return [memory, units.format_seconds(point.load_seconds), f"{point.answers_per_second:.2f}"]
