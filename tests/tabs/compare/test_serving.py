from dataclasses import replace

import gradio as gr
import pandas as pd
import pytest

from ftlab.charts.serving import serving_rows
from ftlab.models.reference import parse_model
from ftlab.playground.client import PlaygroundClient
from ftlab.records import serving
from ftlab.records.serving import keep_record, serving_records
from ftlab.records.store import RunStore, sweep_data
from ftlab.tabs.compare import serving as compare_serving
from ftlab.tabs.compare.serving import (
    FIRST,
    MOST,
    STOPS,
    chooser_html,
    has_figure,
    measured_of,
    notes_html,
    numbers_html,
    read_customers,
    served_html,
    title_html,
)
from ftlab.tabs.context import AppContext
from tests.fakes import SWEEP, make_run, make_sweep
from tests.records.test_serving import RECORD


@pytest.mark.parametrize(("given", "count"), [("1", 1), ("100", 100), (1000, 1000), ("7.0", 7)])
def test_a_whole_number_of_customers_is_read(given, count):
    assert read_customers(given) == (count, "")


@pytest.mark.parametrize(
    "given", ["0", "", None, "-3", "1.5", "1001", "1e9", "nan", "inf", [], "x"]
)
def test_any_other_number_is_named_with_the_rule(given):
    count, error = read_customers(given)
    assert count is None
    assert error.startswith("Customers is ")
    assert error.endswith("; it must be a whole number from 1 to 1,000.")


def test_the_slider_goes_from_one_to_the_most_and_both_fields_have_a_label():
    assert STOPS[0] == 1
    assert STOPS[-1] == MOST
    assert list(STOPS) == sorted(set(STOPS))
    html = chooser_html(FIRST)
    assert f'value="{STOPS.index(FIRST)}"' in html
    assert '<label for="serving-range">' in html
    assert 'aria-label="Number of customers or tasks"' in html


@pytest.mark.parametrize("origin", ["measured", "recorded", "imported"])
def test_the_heading_is_the_finding_and_says_whose_sizes_are_added_up(tmp_path, origin):
    make_sweep(tmp_path)
    html = title_html(RunStore(tmp_path).table(), origin, 100)
    assert "100 customers: 100 full models take 26.91 GB" in html
    assert f'class="chip {origin}"' in html
    assert f"from {origin} sizes" in html
    assert html.count("data-image=") == 2


def test_what_is_added_up_is_said_below(tmp_path):
    make_sweep(tmp_path)
    html = notes_html(RunStore(tmp_path).table(), 100)
    assert "as large as that of full fine-tuning: the same weights in bfloat16." in html
    assert "as they were saved, in float32" in html
    assert "no file of one was measured" in html
    assert "LoRA 9.8 MB" in html


def test_a_4_bit_base_is_only_spoken_of_where_there_is_one(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    assert "4-bit" not in notes_html(RunStore(tmp_path).table(), 100)


def test_variants_left_out_are_counted_and_named(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "prompt_tuning", measures={"adapter_bytes": None})
    html = notes_html(RunStore(tmp_path).table(), 100)
    assert "1 variant left out, file not measured: Prompt tuning." in html


def test_without_a_full_model_there_is_a_sentence_and_neither_figure_nor_notes(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    table = RunStore(tmp_path).table()
    html = title_html(table, "measured", 100)
    assert "no full fine-tuning run is done" in html
    assert "data-image" not in html
    assert not has_figure(table)
    assert notes_html(table, 100) == ""


def built(folder):
    """The section, and what it does as the slider is moved to some number."""
    context = AppContext(folder, RunStore(folder), PlaygroundClient(folder))
    with gr.Blocks() as page:
        section = compare_serving.build(context)
    (choose,) = (fn.fn for fn in page.fns.values() if fn.name == "choose")

    def move(shown, customers):
        return choose(shown, gr.EventData(None, {"customers": customers}))

    return section, move


def test_the_section_is_given_the_sweep_once_and_moves_of_the_slider_read_no_store(tmp_path):
    make_sweep(tmp_path)
    section, move = built(tmp_path)
    shown, *_ = section.show(sweep_data(RunStore(tmp_path), SWEEP))
    for run in tmp_path.glob("*/*.json"):
        run.unlink()
    count, wrong, title, figure, _ = move(shown, "10")
    assert (count, wrong) == (10, "")
    assert "10 customers: 10 full models take 2.69 GB" in title
    assert figure.visible


def test_a_wrong_number_is_said_and_leaves_the_figure_as_it_is(tmp_path):
    _, move = built(tmp_path)
    count, wrong, *rest = move((pd.DataFrame(), "measured"), "<b>")
    assert "Customers is &lt;b&gt;;" in wrong
    assert [count, *rest] == [gr.skip()] * 4


def test_before_a_sweep_is_shown_a_move_only_keeps_the_number(tmp_path):
    _, move = built(tmp_path)
    assert move(None, "3") == [3, "", *[gr.skip()] * 3]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A sweep whose LoRA was measured, and its data."""
    monkeypatch.setattr(serving, "shipped_file", lambda: tmp_path / "none.json")
    make_sweep(tmp_path)
    data = sweep_data(RunStore(tmp_path), SWEEP)
    lora = data.table[data.table["method"] == "lora"].iloc[0]
    model = parse_model(lora["model"]).name
    return data, replace(RECORD, model=model, file_bytes=int(lora["adapter_bytes"]))


def test_what_was_measured_is_found_for_the_sweeps_adapters_and_shown_by_count(served, tmp_path):
    data, record = served
    assert measured_of(data.table, serving_records(tmp_path)) is None
    keep_record(record, tmp_path)
    found = measured_of(data.table, serving_records(tmp_path))
    assert found == record
    assert "64 LoRA adapters on one base took 420 MB" in served_html(found, data)
    html = numbers_html(found)
    assert html.count("<tr>") == 1 + 2
    assert "LoRA, memory" in html
    assert "full models, answers/s" in html
    assert "LoRA on one base" in html
    assert '<span class="chip measured"' in served_html(found, data)
    assert "<td>8.00</td>" in html
    assert html.count("<td>–</td>") == 3, "64 full models were not measured"


@pytest.mark.parametrize(
    ("origin", "may_train", "is_named"),
    [("measured", True, True), ("recorded", True, False), ("measured", False, False)],
)
def test_without_a_measurement_the_command_for_the_best_adapter_is_named(
    served, origin, may_train, is_named
):
    data, _ = served
    html = served_html(None, replace(data, origin=origin), may_train)
    best = serving_rows(data.table, 1).iloc[1]["variant"]
    run = data.table[data.table["variant"] == best].iloc[0]["run_id"]
    assert (f"python -m ftlab serving {run}" in html) == is_named


def test_no_command_is_named_for_what_is_no_adapter(tmp_path):
    make_sweep(tmp_path, ("full", "bitfit"))
    data = sweep_data(RunStore(tmp_path), SWEEP)
    assert served_html(None, data) == ""


def test_where_the_full_models_ended_is_said(served):
    _, record = served
    assert "The full models end there: no memory." in numbers_html(
        replace(record, stopped="no memory")
    )
