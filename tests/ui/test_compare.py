import subprocess
import sys

import gradio as gr
import pytest

from ftlab.methods.registry import METHODS
from ftlab.playground.client import PlaygroundClient
from ftlab.runs.metrics import HEADLINES
from ftlab.runs.spec import TrainingSettings
from ftlab.runs.store import RunStore
from ftlab.ui import compare
from ftlab.ui.compare_view import (
    FIGURE_TITLES,
    bars_sentence,
    curves,
    default_sweep,
    fairness,
    headline,
    left_out,
    loss_sentence,
    sweep_options,
)
from ftlab.ui.context import AppContext
from ftlab.ui.results_names import rate_name
from tests.fakes import SWEEP, make_run, make_sweep

OLD = "20261101-093000-cd34"
NEW = "20261130-093000-ef56"


def runs_of(folder, sweep=SWEEP):
    return RunStore(folder).sweep(sweep)


def test_the_newest_finished_sweep_is_shown_first(tmp_path):
    make_sweep(tmp_path, sweep_id=OLD)
    make_sweep(tmp_path)
    make_sweep(tmp_path, methods=("full",), sweep_id=NEW)
    make_run(tmp_path, "lora", status="running", sweep_id=NEW)
    assert default_sweep(RunStore(tmp_path).table()) == SWEEP


def test_a_sweep_with_nothing_done_is_shown_only_if_there_is_no_other(tmp_path):
    make_sweep(tmp_path, sweep_id=NEW, status="failed")
    assert default_sweep(RunStore(tmp_path).table()) == NEW
    make_sweep(tmp_path, sweep_id=OLD)
    assert default_sweep(RunStore(tmp_path).table()) == OLD


def test_without_a_run_there_is_no_sweep(tmp_path):
    assert default_sweep(RunStore(tmp_path).table()) is None


def test_a_sweep_is_named_by_time_task_and_methods(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    ((label, value),) = sweep_options(RunStore(tmp_path).table())
    assert value == SWEEP
    assert label.startswith("25 Nov 12:00 ab12, SQL, ")
    assert label.endswith("Full fine-tuning, LoRA and QLoRA, 2 of 3 done")


def test_what_was_equal_and_what_differs_by_method_is_said(tmp_path):
    make_sweep(tmp_path)
    text = fairness(runs_of(tmp_path))
    assert "like for like" in text
    assert "30 steps, batch 4 x 1" in text
    assert "seed 0" in text
    full, lora = (rate_name(METHODS[method].learning_rate) for method in ("full", "lora"))
    assert f"learning rate (Full fine-tuning {full}, LoRA {lora}" in text
    assert "QLoRA on a base held in nf4" in text


def test_runs_that_are_not_like_for_like_are_said_to_differ(tmp_path):
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", settings=TrainingSettings(steps=60))
    text = fairness(runs_of(tmp_path))
    assert "not like for like" in text
    assert "steps (30 steps, 60 steps)" in text


def test_a_variant_that_lacks_a_seed_is_said_to_differ(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    make_run(tmp_path, "qlora", seed=0)
    assert "seeds (Full fine-tuning 0, 1; LoRA 0, 1; QLoRA 0)" in fairness(runs_of(tmp_path))


def test_runs_that_are_left_out_are_counted_with_their_reason(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed", reason="No <b>kernel</b>.")
    text = left_out(runs_of(tmp_path))
    assert "1 run left out" in text
    assert "No &lt;b&gt;kernel&lt;/b&gt;." in text


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    make_sweep(tmp_path)
    assert left_out(runs_of(tmp_path)) == ""


def test_the_headline_has_five_tiles_with_net_and_whole_peak(tmp_path):
    make_sweep(tmp_path)
    text = headline(RunStore(tmp_path).table(), runs_of(tmp_path))
    assert text.count("<span>of the parameters trained") == 1
    assert "1.29 GB, full 2.34 GB; whole process 1.79 GB, full 2.84 GB" in text
    assert "27x smaller" in text
    assert "memory: CPU resident" in text


def test_without_full_fine_tuning_there_is_a_sentence_but_no_tiles(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    text = headline(RunStore(tmp_path).table(), runs_of(tmp_path))
    assert "A full fine-tuning run is needed" in text
    assert "tiles" not in text


def test_a_sweep_in_which_all_failed_is_shown_without_numbers(tmp_path):
    make_sweep(tmp_path, status="failed")
    shown = compare.view(runs_of(tmp_path))
    assert "No run of this sweep got to its end" in shown.headline
    assert "4 runs left out" in shown.left_out
    assert (shown.adapters, shown.adapter, shown.fairness) == ([], None, "")


def test_a_disturbed_run_is_marked_and_one_seed_is_said_to_be_one(tmp_path):
    make_sweep(tmp_path, measures={"disturbed": True}, methods=("full", "lora"))
    text = headline(RunStore(tmp_path).table(), runs_of(tmp_path))
    assert "2 runs disturbed" in text
    assert "one seed: no spread is known" in text


def test_there_is_one_titled_bar_figure_for_each_headline_measure(tmp_path):
    make_sweep(tmp_path)
    assert set(FIGURE_TITLES) == set(HEADLINES)
    assert len(compare.view(runs_of(tmp_path)).bars) == 4


def test_the_best_adapter_is_in_the_headline_unless_another_is_named(tmp_path):
    make_sweep(tmp_path)
    assert compare.view(runs_of(tmp_path)).adapter == "LoRA"
    assert compare.view(runs_of(tmp_path), "QLoRA").adapter == "QLoRA"
    assert compare.view(runs_of(tmp_path), "gone").adapter == "LoRA"


def test_curves_are_those_of_the_sweep_without_its_base_runs_and_failed_ones_are_pale(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    drawn = curves(runs_of(tmp_path))
    assert [(c.label, c.emphasised) for c in drawn] == [
        ("Full fine-tuning", True),
        ("LoRA", True),
        ("QLoRA", False),
    ]
    assert len(drawn[0].points) == 30


def test_seeds_are_said_to_be_drawn_as_mean_and_range(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    assert "range of the seeds" not in compare.view(runs_of(tmp_path)).loss_heading
    make_sweep(tmp_path, methods=("lora",), seeds=(1,))
    shown = compare.view(runs_of(tmp_path))
    assert "mean and range of the seeds" in shown.loss_heading
    assert [line.name for line in shown.loss.data] == ["LoRA, range of the seeds", "LoRA"]


@pytest.mark.parametrize("model", ["bundled", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_the_bundled_model_is_named_by_its_label(tmp_path, model):
    make_sweep(tmp_path, methods=("full", "lora"), model=model)
    shown = compare.view(runs_of(tmp_path))
    for html in (shown.fairness, shown.headline):
        assert "SmolLM2-135M-Instruct (bundled)" in html
        assert "HuggingFaceTB" not in html


def test_a_model_folder_is_named_without_its_path(tmp_path):
    make_sweep(tmp_path / "runs", methods=("full", "lora"), model="/srv/models/mine")
    shown = compare.view(runs_of(tmp_path / "runs"))
    for html in (shown.fairness, shown.headline):
        assert "mine" in html
        assert "/srv" not in html


def test_headings_are_made_from_numbers(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = RunStore(tmp_path).table()
    assert loss_sentence(table) == (
        "Held-out loss after training: Full fine-tuning 1.220, LoRA 1.310"
    )
    assert bars_sentence(table).startswith("Relative to Full fine-tuning = 1")
    assert bars_sentence(table[table["method"] == "lora"]).startswith("Absolute values")


def test_script_in_a_variant_is_only_text(tmp_path):
    script = {"targets": "<script>alert(1)</script>"}
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters=script)
    make_run(tmp_path, "qlora", status="failed", hyperparameters=script)
    shown = compare.view(runs_of(tmp_path))
    html = shown.headline + shown.fairness + shown.left_out + shown.loss_heading
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_opening_the_tab_without_runs_shows_the_empty_state_alone(tmp_path):
    blank, page, *rest = compare._enter(RunStore(tmp_path), None, False, None, 3)
    assert (blank.visible, page.visible) == (True, False)
    assert all(update == gr.skip() for update in rest)


@pytest.mark.parametrize(("by_hand", "shown"), [(True, OLD), (False, SWEEP)])
def test_a_sweep_chosen_by_hand_stays_else_the_newest_is_shown(tmp_path, by_hand, shown):
    make_sweep(tmp_path, sweep_id=OLD)
    make_sweep(tmp_path)
    _, _, dropdown, *_ = compare._enter(RunStore(tmp_path), OLD, by_hand, None, 12)
    assert dropdown.value == shown


def test_the_tab_is_built(tmp_path):
    context = AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))
    with gr.Blocks(), gr.Tabs(), gr.Tab("Compare"):
        compare.build(context)


def test_neither_charts_nor_these_tabs_import_torch_and_charts_import_no_gradio():
    code = (
        "import sys, ftlab.charts.loss, ftlab.charts.savings; assert 'gradio' not in sys.modules;"
        "import ftlab.ui.results, ftlab.ui.compare; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_variant_alone_is_not_called_like_for_like(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    text = fairness(runs_of(tmp_path))
    assert "only one variant is done" in text
    assert "like for like" not in text


def test_runs_on_different_data_are_not_said_to_share_their_examples(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    result = next(tmp_path.glob("*-lora")) / "result.json"
    result.write_text(result.read_text().replace("4c1e99d0a3b7", "ffff"))
    text = fairness(runs_of(tmp_path))
    assert "not like for like: examples" in text
    assert "examples in the same order" not in text
