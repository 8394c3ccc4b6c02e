from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.playground.client import PlaygroundClient
from ftlab.runs.store import RunStore
from ftlab.runs.sweep_data import sweep_data
from ftlab.ui.compare import quality as compare_quality
from ftlab.ui.compare.quality import forgetting_picture, steps_picture
from ftlab.ui.context import AppContext
from tests.charts.test_forgetting import run as forgetful_run
from tests.charts.test_score_steps import points_of
from tests.charts.test_score_steps import run as curved_run
from tests.fakes import SWEEP, make_run


def shown(folder: Path) -> tuple[Any, ...]:
    """(whether forgetting is there, whether the curve is) for the sweep."""
    context = AppContext(folder, RunStore(folder), PlaygroundClient(folder, idle_seconds=1))
    with gr.Blocks():
        section = compare_quality.build(context)
    updates = section.show(sweep_data(context.store, SWEEP))
    assert len(updates) == len(section.outputs)
    columns = [update for update in updates if isinstance(update, gr.Column)]
    return tuple(column.visible for column in columns)


def test_a_sweep_of_an_older_version_has_neither_figure(tmp_path):
    make_run(tmp_path, "lora")
    assert shown(tmp_path) == (False, False)


def test_each_figure_is_there_for_a_sweep_that_has_its_numbers(tmp_path):
    forgetful_run(tmp_path / "a", "lora", 0.4, 0.05)
    assert shown(tmp_path / "a") == (True, False)
    curved_run(tmp_path / "b", "lora", {0: 0.0, 10: 0.4})
    assert shown(tmp_path / "b") == (False, True)


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_runs_that_did_not_get_there_are_counted_below_the_figure(tmp_path, status):
    forgetful_run(tmp_path, "lora", 0.4, 0.05)
    make_run(tmp_path, "full", status)
    assert (
        f"1 run left out: {status}."
        in forgetting_picture(sweep_data(RunStore(tmp_path), SWEEP)).note
    )


def test_the_curve_says_on_what_it_was_measured_and_who_is_left_out(tmp_path):
    curved_run(tmp_path, "lora", {0: 0.0, 10: 0.4})
    make_run(tmp_path, "full")
    picture = steps_picture(sweep_data(RunStore(tmp_path), SWEEP), points_of(tmp_path), "score")
    assert "32 at most; step 0 is the untouched model" in picture.heading
    assert 'data-file="ftlab-score-by-step"' in picture.heading
    assert "1 run left out: not evaluated between steps." in picture.note
