"""The figures of a report: what they hold, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ftlab.share import report_figures
from ftlab.share.report_figures import figures_of, figures_section, scripts, thinned
from tests.fakes import make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of


def section_of(folder: Path) -> str:
    data = data_of(folder)
    return figures_section(figures_of(data), data.table, data.sweep_id)


def test_there_are_four_bars_and_a_figure_of_each_kind(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    drawn = figures_of(data_of(tmp_path))
    bars = [
        "Trainable parameters", "Memory while training", "Training time", "File to deliver",
    ]  # fmt: skip
    others = [
        "Score against memory while training",
        "Training loss by step", "Score against training time",
        "Memory by phase",
    ]  # fmt: skip
    assert [part.about for part in drawn.bars] == bars
    assert [part.about for part in drawn.others if part.about in others] == others
    assert drawn.notes == (
        "Gain against forgetting: no figure, as all 8 runs lack what it shows.",
        "What the peak is made of: no figure, as all 8 runs lack what it shows.",
    )


def test_a_measure_that_no_run_has_makes_no_figure_but_a_sentence(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"), measures={"adapter_bytes": None})
    drawn = figures_of(data_of(tmp_path))
    assert "File to deliver" not in [part.about for part in drawn.bars]
    assert "File to deliver: no figure, as all 2 runs lack what it shows." in drawn.notes
    assert "File to deliver: no figure" in section_of(tmp_path)


def test_runs_that_are_left_out_of_a_figure_are_counted_below_it(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", "failed")
    (bar, *_) = figures_of(data_of(tmp_path)).bars
    assert bar.note == "1 run left out: failed."
    assert "1 run left out: failed." in section_of(tmp_path)


def test_losses_that_cannot_be_read_are_named_and_the_rest_is_drawn(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    broken = next(tmp_path.glob("*-lora")) / "metrics.jsonl"
    broken.unlink()
    broken.mkdir()
    drawn = figures_of(data_of(tmp_path))
    assert any("lora cannot be read" in note for note in drawn.notes)
    loss = next(part for part in drawn.others if part.about.startswith("Training loss"))
    assert loss.note == "1 run left out: no loss recorded."


def test_the_data_of_a_figure_hold_no_tag_and_lead_nowhere(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters={"targets": HOSTILE})
    for part in figures_of(data_of(tmp_path)).others:
        assert "<" not in part.json
        assert json.loads(part.json)["data"]
        assert "customdata" not in part.json
        assert "click: open" not in part.json


def test_names_in_headings_and_labels_are_escaped(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters={"targets": HOSTILE})
    section = section_of(tmp_path)
    assert section.count("<script") == section.count('<script type="application/json">')
    assert "<img" not in section
    assert 'href="javascript' not in section


def test_many_points_are_thinned_evenly_and_the_last_step_stays() -> None:
    points = pd.DataFrame(
        [{"run_id": run, "step": step} for run in ("a", "b") for step in range(1, 1001)]
    )
    kept, every = thinned(points, most=200)
    assert every == 10
    assert len(kept) == 202
    assert kept.groupby("run_id")["step"].max().tolist() == [1000, 1000]
    assert kept["step"].tolist()[:3] == [1, 11, 21]
    same, every = thinned(points, most=5000)
    assert (len(same), every) == (2000, 1)


def test_figures_too_large_for_a_file_to_send_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sweep(tmp_path)
    whole = figures_of(data_of(tmp_path))
    sizes = sorted(len(part.json) for part in (*whole.bars, *whole.others))
    monkeypatch.setattr(report_figures, "MOST_BYTES", sum(sizes[:-1]))
    kept = figures_of(data_of(tmp_path))
    assert len(kept.bars) + len(kept.others) == len(sizes) - 1
    assert any("too large for a file to send" in note for note in kept.notes)


@pytest.mark.parametrize("script", scripts(), ids=["plotly", "ours"])
def test_the_scripts_are_read_by_a_browser_as_they_are_written(script: str) -> None:
    assert "</script" not in script.lower()
    assert "\r" not in script


def test_figures_of_unlike_runs_say_so_below_them_and_in_their_images(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", steps=60)
    figures = figures_of(data_of(tmp_path))
    parts = [*figures.bars, *figures.others]
    assert len(parts) > 6
    for part in parts:
        assert "Not a fair comparison: steps (30, 60)." in part.note
        assert '"text":"Not a fair comparison: steps"' in part.json
