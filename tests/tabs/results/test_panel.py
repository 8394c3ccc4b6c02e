"""One run opened: own, recorded or imported."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.records.published import PublishedRun
from ftlab.records.run import Annotations, write_annotations
from ftlab.records.store import RunStore, read_run
from ftlab.tabs.results.panel import Side, closed, facts, opened_run, panel, published_panel
from tests.fakes import SWEEP, make_checkpoint, make_run, make_sweep

SCRIPT = "<script>alert(1)</script>"
NAMES = ("chosen", "block", "top", "samples", "config", "environment", "log", "edits", "tags",
         "note", "saved", "clone", "again", "resume", "archive", "delete", "sweep", "panes", "next",
         "words", "compare", "report", "card", "ask")  # fmt: skip


def opened(store: RunStore, run_id: str) -> dict[str, Any]:
    with gr.Blocks():
        side = Side()
    return dict(zip(NAMES, opened_run(store, run_id, side), strict=True))


def top_of(folder: Path, *args: Any, **more: Any) -> str:
    return panel(read_run(make_run(folder, *args, **more))).top


def test_the_panel_has_measures_by_phase_settings_environment_samples_and_log(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4}, notes=["A note."])
    parts = panel(read_run(run))
    assert "Peak, CPU resident" in parts.top
    assert "1.29 GB" in parts.top
    assert "A note." in parts.top
    assert f'data-address="run={run.run_id}"' in parts.top
    assert "runs, equal" in parts.samples
    assert "<th>r</th><td>4</td>" in parts.config
    assert "transformers" in parts.environment
    assert "step 30" in parts.log


def test_the_panel_of_a_run_says_why_it_ended_early_and_after_how_many_steps(
    tmp_path: Path,
) -> None:
    assert "The disk is full." in top_of(tmp_path, status="failed", reason="The disk is full.")
    reason = "The loss rose from 3.08 to 9.12 by step 7 (learning rate 3); lower the learning rate."
    top = top_of(tmp_path, "lora", "diverged", reason=reason, measures={"steps_done": 7})
    assert reason in top
    assert "<th>Steps done</th><td>7</td>" in top


def test_the_time_that_was_predicted_stands_beside_the_measured_one(tmp_path: Path) -> None:
    measures = {"total_seconds": 81.0, "predicted_total_seconds": 162.0}
    assert "1 min 21 s</b> <small>2 min 42 s were predicted" in top_of(tmp_path, measures=measures)
    table = RunStore(tmp_path).table()
    assert table["predicted_total_seconds"].tolist() == [162.0]


@pytest.mark.parametrize("status", ["queued", "running", "interrupted", "cancelled"])
def test_the_panel_of_a_run_without_an_end_says_what_there_is(tmp_path: Path, status: Any) -> None:
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
def test_the_panel_names_the_model_by_its_label(tmp_path: Path, model: str, label: str) -> None:
    config = panel(read_run(make_run(tmp_path, model=model))).config
    assert f"<th>Model</th><td>{label}</td>" in config


def test_a_running_run_shows_its_step(tmp_path: Path) -> None:
    assert "step 15 of 30" in top_of(tmp_path, status="running")


def test_odd_samples_break_nothing(tmp_path: Path) -> None:
    odd = [{"prompt": "no list"}, {"prompt": [], "answer_after": "", "score_after": 0.25}, {}]
    assert "score 0.25" in panel(read_run(make_run(tmp_path, samples=odd))).samples


def test_a_run_of_ones_own_can_be_edited(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_annotations(run, Annotations(archived=True, tags=("a", "b"), note="Mine."))
    parts = opened(RunStore(tmp_path), run.run_id)
    assert (parts["tags"], parts["note"]) == ("a, b", "Mine.")
    assert parts["edits"].label == "Tags and note (tags: a, b; a note)"
    assert parts["archive"].value == "Unarchive"
    assert all(parts[name].visible for name in ("edits", "clone", "again", "archive", "delete"))
    assert "chip measured" in parts["top"]


def test_a_recorded_run_can_be_looked_at_and_cloned_only(tmp_path: Path) -> None:
    *_, run = make_sweep(tmp_path / "recorded" / "x", ("lora",))
    parts = opened(RunStore(tmp_path / "runs", tmp_path / "recorded"), run.run_id)
    assert parts["clone"].visible
    assert not any(parts[name].visible for name in ("edits", "again", "archive", "delete"))
    assert "chip recorded" in parts["top"]


def test_an_imported_result_shows_its_facts_and_numbers(tmp_path: Path) -> None:
    values = {"method": "dora", "variant": SCRIPT, "status": "done", "trainable_params": 2_400_000,
              "score_after": None, "reason": ""}  # fmt: skip
    run = PublishedRun("imported-x", "imported", values, facts=(("Source", SCRIPT),))
    parts = published_panel(run)
    assert "2.4 M" in parts.top
    assert "chip imported" in parts.top
    assert "Source" in parts.top
    assert "<script" not in "".join(parts.parts())
    assert "Score" not in parts.top


def test_a_run_that_was_deleted_says_so_in_the_panel(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert "There is no run" in opened(store, "20261125-120000-ab12-02-lora")["top"]
    assert "There is no run" in facts(store, "../../etc")[0]
    assert not opened(store, "../../etc")["delete"].visible


def test_the_closed_panel_holds_no_run() -> None:
    with gr.Blocks():
        side = Side()
    updates = closed(side)
    assert len(updates) == len(side.outputs)
    assert updates[0] == ""
    assert updates[1].visible is False


def test_each_change_stands_beside_its_numbers_with_its_interval(tmp_path: Path) -> None:
    measures = {
        "score_gain": 0.4, "score_gain_low": 0.29, "score_gain_high": 0.52,
        "loss_change": -1.77, "loss_change_low": -1.9, "loss_change_high": -1.6,
        "general_loss_before": 3.2, "general_loss_after": 3.3,
        "general_loss_change": 0.1,
        "general_loss_change_low": 0.05, "general_loss_change_high": 0.2,
    }  # fmt: skip
    top = top_of(tmp_path, "lora", measures=measures)
    assert "0.31 → <b>0.71</b> <small>+0.40 (+0.29 to +0.52), 95 % interval</small>" in top
    assert "<small>-1.770 (-1.900 to -1.600), 95 % interval</small>" in top
    assert "Loss on unrelated text</th><td>3.200 → <b>3.300</b> <small>+0.10 (+0.05" in top


def test_a_run_of_an_older_version_has_no_line_for_what_it_did_not_measure(tmp_path: Path) -> None:
    top = top_of(tmp_path, "lora")
    assert "interval" not in top
    assert "unrelated" not in top


def test_a_run_that_was_cut_off_offers_to_go_on_and_says_from_where(tmp_path: Path) -> None:
    directory = make_run(tmp_path, status="interrupted")
    store = RunStore(tmp_path)
    assert opened(store, directory.run_id)["resume"].visible is False
    make_checkpoint(directory, 20)
    parts = opened(store, directory.run_id)
    assert parts["resume"].visible is True
    assert "Resume goes on from step 20." in parts["top"]


def test_the_panel_offers_comparison_report_and_card_of_its_sweep(tmp_path: Path) -> None:
    run = make_sweep(tmp_path, ("full", "lora"))[-1]
    now = opened(RunStore(tmp_path), run.run_id)
    assert (now["sweep"], now["panes"].split(",")[:2]) == (SWEEP, ["base", run.run_id])
    names = ("compare", "report", "card", "ask")
    assert [now[name].visible for name in names] == [True] * 4
    failed = make_run(tmp_path, "lora", "failed", sweep_id="20250101-000000-aaaa")
    now = opened(RunStore(tmp_path), failed.run_id)
    assert [now[name].visible for name in names] == [False] * 4
    assert "nothing to compare" in now["words"]
    assert opened(RunStore(tmp_path), "gone")["next"].visible is False
