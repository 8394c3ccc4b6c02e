"""What is said to be equal between runs, and what differs."""

from __future__ import annotations

from pathlib import Path

from ftlab.settings.training import TrainingSettings
from ftlab.share.report_sections import fairness_html
from tests.fakes import make_run, make_sweep
from tests.share.fakes import data_of


def test_a_sweep_is_like_for_like_but_for_what_each_method_sets(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    html = fairness_html(data_of(tmp_path))
    assert (
        'class="chip ok like">a fair comparison: same data, model and settings (25 checked)<'
        in html
    )
    assert (
        "the same examples, in the same order, 30 steps, batch size 4, at most 256 tokens" in html
    )
    assert "seeds 0 and 1, no other work on the machine." in html
    assert "Differs" not in html
    assert "Not recorded" not in html
    assert "</b> learning rate (Full fine-tuning 3e-4, LoRA 2e-3, " in html
    assert "; QLoRA on a base held in nf4." in html


def test_what_differs_is_named_with_its_values_in_the_text_and_on_the_chip(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", settings=TrainingSettings(steps=60), seed=3)
    html = fairness_html(data_of(tmp_path))
    seeds = "seeds (0 of Full fine-tuning; 3 of LoRA)"
    assert 'class="chip warn like"' in html
    assert ">not a fair comparison: steps and seeds<" in html
    assert f'title="Not a fair comparison: steps (30, 60), {seeds}."' in html
    assert f'<b class="differs">Differs</b> steps (30, 60); {seeds}.' in html


def test_what_old_records_lack_is_said_not_to_be_recorded(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"), environment={"order_hash": None})
    html = fairness_html(data_of(tmp_path))
    assert "<b>Not recorded</b> order of the examples." in html
    assert "in the same order" not in html


def test_runs_that_are_not_done_and_base_runs_are_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "qlora", "failed", steps=60)
    make_run(tmp_path, "base", seed=9)
    assert fairness_html(data_of(tmp_path)) == ""
    make_sweep(tmp_path, methods=("full", "lora"))
    assert "(25 checked)" in fairness_html(data_of(tmp_path))
