"""Ladders as runs: around the rate of the model's size, on the tuning split, in one sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.jobs.launch import validate
from ftlab.jobs.tuning import (
    Ladder,
    around,
    enqueue_ladders,
    further_ladders,
    ladder_request,
    ladders_of,
    starting_ladder,
)
from ftlab.methods.rates import TUNED_ON, ModelSize
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference
from tests.jobs.test_tuning_runs import make_rung

LLAMA_8B = ModelSize("llama", 4096)
REQUEST = SweepRequest(
    "bundled",
    TaskReference("bundled", "sql"),
    (Variant("lora"), Variant("full")),
    TrainingSettings(steps=7, learning_rate=1e-3, eval_every=5, report_to=("tensorboard",)),
    device="cpu",
    seeds=(3,),
)


@pytest.mark.parametrize("method", METHODS)
def test_the_ladder_of_every_method_stands_around_its_rate_for_the_size(method: str) -> None:
    for size in (TUNED_ON, LLAMA_8B):
        ladder = starting_ladder(Variant(method), size)
        assert ladder.rates == around(METHODS[method].rate_for(size))
        assert METHODS[method].rate_for(size) in ladder.rates


def test_a_ladder_trains_as_the_request_says_and_measures_the_tuning_loss_alone() -> None:
    asked = ladder_request(REQUEST, [Ladder(Variant("lora"), (1e-3, 3e-3))])
    assert asked.variants == (Variant("lora", {}, 1e-3), Variant("lora", {}, 3e-3))
    assert (asked.settings.steps, asked.seeds) == (7, (3,))
    assert (asked.settings.eval_split, asked.settings.eval_answers) == ("tuning", False)
    assert asked.settings.learning_rate is None
    assert (asked.settings.eval_every, asked.settings.report_to) == (0, ())
    assert validate(asked) == []


def test_the_ladders_of_several_variants_are_one_sweep_with_one_base_run(tmp_path: Path) -> None:
    ladders = [starting_ladder(variant, TUNED_ON) for variant in (Variant("lora"), Variant("full"))]
    specs = enqueue_ladders(REQUEST, ladders, tmp_path)
    assert [spec.method for spec in specs] == ["base", *["lora"] * 3, *["full"] * 3]
    assert len({spec.sweep_id for spec in specs}) == 1
    found = ladders_of(RunStore(tmp_path).runs())
    assert [ladder.variant for ladder in found] == [Variant("lora"), Variant("full")]


def test_only_a_ladder_whose_best_rate_is_at_its_end_goes_on(tmp_path: Path) -> None:
    for rate, loss in ((1e-3, 0.9), (3e-3, 0.5)):
        make_rung(tmp_path / "end", rate, loss)
    for rate, loss in ((1e-3, 0.9), (3e-3, 0.5), (9e-3, 0.7)):
        make_rung(tmp_path / "inside", rate, loss)
    runs = {name: RunStore(tmp_path / name).runs() for name in ("end", "inside")}
    assert further_ladders(ladders_of(runs["end"])) == [Ladder(Variant("lora"), (9e-3,))]
    assert further_ladders(ladders_of(runs["inside"])) == []
