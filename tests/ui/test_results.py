import csv
import io
import json

import gradio as gr
import pandas as pd
import pytest

from ftlab.playground.client import PlaygroundClient
from ftlab.runs.store import RunStore, read_run
from ftlab.ui import results
from ftlab.ui.context import AppContext
from ftlab.ui.results_names import rate_name, run_name, sweep_name
from ftlab.ui.results_panel import panel
from ftlab.ui.results_table import (
    DATATYPES,
    KEYS,
    WIDTHS,
    caption,
    filtered,
    headers,
    how_measured,
    styled,
    sweep_choices,
    to_csv,
    to_json,
    write_exports,
)
from tests.fakes import SWEEP, make_run, make_sweep, make_unreadable

SCRIPT = "<script>alert(1)</script>"


def table_of(folder):
    return RunStore(folder).table()


def cells(rows):
    """What the page shows: the Styler's text for each cell, by column head."""
    shown = gr.Dataframe(interactive=False).postprocess(styled(rows)).model_dump()
    display = shown["metadata"]["display_value"]
    return [dict(zip(shown["headers"], row, strict=True)) for row in display], shown["data"]


def test_people_read_formatted_numbers_and_the_browser_sorts_raw_ones(tmp_path):
    make_run(tmp_path, "lora")
    shown, raw = cells(table_of(tmp_path))
    assert (shown[0]["Trainable"], shown[0]["File"]) == ("2.4 M", "9.8 MB")
    assert raw[0][KEYS.index("trainable_params")] == 2_442_240
    assert raw[0][KEYS.index("status")] == "done"


def test_a_number_that_is_missing_is_a_dash(tmp_path):
    make_run(tmp_path, status="queued")
    assert cells(table_of(tmp_path))[0][0]["Score"] == "–"


def test_every_column_has_a_type_and_a_width(tmp_path):
    make_run(tmp_path)
    assert len(KEYS) == len(DATATYPES) == len(WIDTHS) == len(headers(table_of(tmp_path)))


def test_memory_names_its_kind_and_is_never_called_vram_on_a_cpu(tmp_path):
    make_run(tmp_path)
    assert {"Peak, CPU", "Net peak, CPU"} <= set(headers(table_of(tmp_path)))
    assert "VRAM" not in how_measured(table_of(tmp_path))


def test_memory_of_two_kinds_is_said_not_to_compare(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, device="cuda:0")
    table = table_of(tmp_path)
    assert "Peak" in headers(table)
    assert "Compare memory only between rows of one device" in how_measured(table)


def test_a_disturbed_run_is_marked_in_its_times_and_below_the_table(tmp_path):
    make_run(tmp_path, "lora", measures={"disturbed": True})
    make_run(tmp_path, "qlora")
    table = table_of(tmp_path)
    shown, _ = cells(table)
    assert [row["Train"] for row in shown] == ["▲ 1 min 00 s", "1 min 23 s"]
    assert shown[0]["tok/s"].startswith("▲")
    assert "disturbed" in caption(table, 2)
    assert "disturbed" not in caption(table[1:], 2)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", 3), ("lora", 2), ("lora done", 1), ("OUT of memory", 1), ("full", 1), ("nonsense", 0)],
)
def test_a_filter_keeps_rows_that_hold_every_word(tmp_path, text, found):
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora")
    make_run(tmp_path, "qlora", status="out_of_memory")
    assert len(filtered(table_of(tmp_path), text=text)) == found


def test_a_filter_is_text_not_a_pattern(tmp_path):
    make_run(tmp_path)
    assert filtered(table_of(tmp_path), text="(").empty


def test_a_sweep_can_be_chosen_by_its_name(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    make_sweep(tmp_path, methods=("full", "lora"), sweep_id="20261101-093000-cd34")
    table = table_of(tmp_path)
    (all_label, _), (newest, _), (oldest, value) = sweep_choices(table)
    assert all_label == "All sweeps"
    assert newest.startswith("25 Nov 12:00 ab12")
    assert (value, oldest.endswith("2 runs")) == ("20261101-093000-cd34", True)
    assert len(filtered(table, SWEEP)) == 1


def test_names_are_short_and_strange_ids_stay_as_they_are():
    assert sweep_name("20261125-120304-ab12") == "25 Nov 12:03 ab12"
    assert sweep_name("20269999-120304-ab12") == "20269999-120304-ab12"
    assert run_name("20261125-120304-ab12-03-lora") == "ab12-03"
    assert (run_name("mine"), sweep_name("mine")) == ("mine", "mine")
    assert [rate_name(rate) for rate in (1e-4, 2.5e-5, 0.03, None)] == [
        "1e-4",
        "2.5e-5",
        "0.03",
        "–",
    ]


def test_exports_hold_exactly_the_rows_shown_with_raw_numbers(tmp_path):
    make_sweep(tmp_path)
    rows = filtered(table_of(tmp_path), text="lora")
    as_csv = list(csv.DictReader(io.StringIO(to_csv(rows))))
    as_json = json.loads(to_json(rows))
    assert [row["run_id"] for row in as_csv] == list(rows["run_id"])
    assert [row["run_id"] for row in as_json] == list(rows["run_id"])
    assert as_json[0]["adapter_bytes"] == 9_794_952
    assert as_csv[0]["train_seconds"] == "60.4"


def test_an_export_of_no_rows_still_has_its_columns(tmp_path):
    make_run(tmp_path)
    rows = filtered(table_of(tmp_path), text="nonsense")
    assert to_csv(rows).startswith("run_id,sweep_id")
    assert json.loads(to_json(rows)) == []


def test_what_is_missing_is_null_in_json_and_empty_in_csv(tmp_path):
    make_run(tmp_path, status="queued")
    rows = table_of(tmp_path)
    assert json.loads(to_json(rows))[0]["score_after"] is None
    assert next(csv.DictReader(io.StringIO(to_csv(rows))))["score_after"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1"])
def test_a_text_that_a_spreadsheet_would_run_is_inert_in_csv_and_untouched_in_json(tmp_path, text):
    make_run(tmp_path, status="failed", reason=text)
    rows = table_of(tmp_path)
    assert next(csv.DictReader(io.StringIO(to_csv(rows))))["reason"] == f"'{text}"
    assert json.loads(to_json(rows))[0]["reason"] == text


def test_a_negative_number_stays_a_number_in_csv(tmp_path):
    make_run(tmp_path, measures={"net_peak_memory_bytes": -5})
    row = next(csv.DictReader(io.StringIO(to_csv(table_of(tmp_path)))))
    assert row["net_peak_memory_bytes"] == "-5"


def test_the_servers_paths_are_not_exported(tmp_path):
    make_run(tmp_path)
    rows = table_of(tmp_path)
    assert str(tmp_path) not in to_csv(rows) + to_json(rows)


def test_both_files_are_written(tmp_path):
    make_run(tmp_path / "runs")
    paths = write_exports(table_of(tmp_path / "runs"), tmp_path / "out")
    assert [path.rsplit(".", 1)[1] for path in paths] == ["csv", "json"]


def test_runs_that_ended_early_are_counted_below_the_table(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, status="failed")
    text = caption(table_of(tmp_path), 5)
    assert "2 of 5 runs. 1 failed: left out of every comparison." in text


def test_folders_that_cannot_be_read_are_listed_with_their_reason(tmp_path):
    make_unreadable(tmp_path)
    store = RunStore(tmp_path)
    text = caption(store.table(), 0, store.unreadable)
    assert "1 folder of a run cannot be read" in text
    assert "Invalid JSON" in text


def test_script_in_a_variant_a_reason_a_log_or_a_sample_is_only_text(tmp_path):
    sample = {
        "prompt": [{"role": "user", "content": SCRIPT}],
        "reference": SCRIPT,
        "answer_before": SCRIPT,
        "answer_after": SCRIPT,
        "verdict_before": SCRIPT,
        "verdict_after": SCRIPT,
    }
    done = make_run(
        tmp_path, hyperparameters={"targets": SCRIPT}, log=SCRIPT, samples=[sample], notes=[SCRIPT]
    )
    failed = make_run(tmp_path, status="failed", reason=SCRIPT, model=SCRIPT)
    for run in (done, failed):
        assert "<script" not in "".join(panel(read_run(run)).parts())
    shown, _ = cells(table_of(tmp_path))
    assert "<script" not in shown[0]["Variant"] + shown[1]["Variant"]
    assert "&lt;script&gt;" in panel(read_run(failed)).top


def test_script_in_the_name_of_a_folder_that_cannot_be_read_is_only_text():
    from ftlab.runs.store import UnreadableRun

    empty = pd.DataFrame(columns=["status", "disturbed"])
    assert "<script" not in caption(empty, 0, [UnreadableRun("x", SCRIPT)])


def test_the_panel_has_measures_by_phase_settings_environment_samples_and_log(tmp_path):
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4}, notes=["A note."])
    parts = panel(read_run(run))
    assert "Peak, CPU resident" in parts.top
    assert "1.29 GB" in parts.top
    assert "A note." in parts.top
    assert "runs, equal" in parts.samples
    assert "<th>r</th><td>4</td>" in parts.config
    assert "transformers" in parts.environment
    assert "step 30" in parts.log


def test_the_panel_of_a_failed_run_says_why(tmp_path):
    run = make_run(tmp_path, status="failed", reason="The disk is full.")
    assert "The disk is full." in panel(read_run(run)).top


@pytest.mark.parametrize("status", ["queued", "running", "interrupted", "cancelled"])
def test_the_panel_of_a_run_without_an_end_says_what_there_is(tmp_path, status):
    parts = panel(read_run(make_run(tmp_path, status=status)))
    assert all(parts.parts())


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct (bundled)"),
        ("/srv/models/mine", "mine"),
        ("owner/name", "owner/name"),
    ],
)
def test_the_panel_names_the_model_by_its_label(tmp_path, model, label):
    config = panel(read_run(make_run(tmp_path, model=model))).config
    assert f"<th>Model</th><td>{label}</td>" in config


def test_a_running_run_shows_its_step(tmp_path):
    assert "step 15 of 30" in panel(read_run(make_run(tmp_path, status="running"))).top


def test_odd_samples_break_nothing(tmp_path):
    odd = [{"prompt": "no list"}, {"prompt": [], "answer_after": "", "score_after": 0.25}, {}]
    assert "score 0.25" in panel(read_run(make_run(tmp_path, samples=odd))).samples


def test_a_row_is_found_by_its_run_id_whatever_its_place(tmp_path):
    make_sweep(tmp_path)
    _, raw = cells(table_of(tmp_path))
    assert results.run_of(raw[2]) == table_of(tmp_path)["run_id"][2]
    assert results.run_of(None) == ""


def test_a_refresh_that_changes_nothing_sends_nothing(tmp_path):
    make_run(tmp_path)
    store = RunStore(tmp_path)
    *_, digest = results._refresh(store, "", "", "")
    assert all(update == gr.skip() for update in results._refresh(store, "", "", digest))
    make_run(tmp_path)
    assert results._refresh(store, "", "", digest)[-1] != digest


def test_the_table_is_refreshed_by_timer_only_while_something_is_open(tmp_path):
    make_run(tmp_path)
    store = RunStore(tmp_path)
    assert results._refresh(store, "", "", "")[-2].active is False
    make_run(tmp_path, status="running")
    assert results._refresh(store, "", "", "")[-2].active is True


def test_a_run_that_was_deleted_says_so_in_the_panel(tmp_path):
    shown = results._open(tmp_path, "20261125-120000-ab12-02-lora")
    assert "There is no run" in shown[1]
    assert "There is no run" in results._open(tmp_path, "../../etc")[1]


def test_the_tab_is_built(tmp_path):
    context = AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))
    with gr.Blocks(), gr.Tabs(), gr.Tab("Results"):
        results.build(context)
