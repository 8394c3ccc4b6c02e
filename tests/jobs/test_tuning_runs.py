"""Tuning of a learning rate: ladders, their runs on the tuning split, and the suggestion."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import rate_name
from ftlab.jobs.launch import enqueue_sweep, plan_sweep, validate
from ftlab.jobs.tuning import (
    Ladder,
    Point,
    around,
    between,
    beyond,
    enqueue_ladders,
    extension,
    further_ladders,
    ladder_request,
    ladders_of,
    latest_ladders,
    parse_rates,
    starting_ladder,
    suggest,
)
from ftlab.methods.rates import BY_WIDTH, TUNED_ON, ModelSize
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, validate_variant
from ftlab.records.comparability import comparability_of_runs
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest, dump_spec, load_spec
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.share.learning_rates import document, sizes_section
from ftlab.share.model_card import spec_rows
from ftlab.tasks.reference import TaskReference
from tests.fakes import SWEEP, make_run

TUNING = TrainingSettings(eval_split="tuning", eval_answers=False)
LATER = "20261126-080000-ef56"


def request(**settings: object) -> SweepRequest:
    return SweepRequest(
        "bundled",
        TaskReference("bundled", "sql"),
        (Variant("lora", learning_rate=1e-3), Variant("lora", learning_rate=3e-3)),
        TrainingSettings(**settings),  # type: ignore[arg-type]
        device="cpu",
    )


def make_rung(
    folder: Path, rate: float, loss: float | None, sweep: str = SWEEP, **run: object
) -> RunDirectory:
    """A run of a ladder; without a loss it diverged."""
    rows = [{"index": i, "loss_after": loss} for i in range(4)]
    return make_run(
        folder, "lora", "diverged" if loss is None else "done", sweep_id=sweep, learning_rate=rate,
        measures={"eval_loss_after": loss}, samples=rows, settings=TUNING, **run,
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_spec_and_the_panel_name_the_split_if_it_is_not_the_usual_one() -> None:
    assert [e.field for e in validate(request(eval_split="test"))] == ["settings.eval_split"]
    usual, tuning = (plan_sweep(request(**given))[-1] for given in ({}, {"eval_split": "tuning"}))
    assert "eval_split" not in json.loads(dump_spec(usual))["settings"]
    assert json.loads(dump_spec(tuning))["settings"]["eval_split"] == "tuning"
    assert load_spec(dump_spec(tuning)) == tuning
    loss_alone = plan_sweep(request(eval_split="tuning", eval_answers=False))[-1]
    assert ("Tuning split", "64 examples, their loss alone") in spec_rows(loss_alone)
    assert ("Test examples", "64 examples") in spec_rows(usual)


def test_what_a_race_measured_on_tuning_examples_is_no_ladder(tmp_path: Path) -> None:
    for rate in (1e-3, 3e-3):
        make_rung(tmp_path, rate, 1.0)
        make_rung(tmp_path, rate, 2.0, LATER).pause_after(5)
    (found,) = latest_ladders(RunStore(tmp_path).runs())
    assert [point.loss for point in found.points] == [1.0, 1.0]


def test_what_was_measured_on_tuning_examples_is_called_so_where_runs_are_compared(
    tmp_path: Path,
) -> None:
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 3e-3, 0.5)
    assert "64 tuning examples" in comparability_of_runs(RunStore(tmp_path).runs()).same


def test_runs_that_go_on_with_a_sweep_share_its_id_and_its_base_run(tmp_path: Path) -> None:
    first = enqueue_sweep(request(), tmp_path)
    asked = replace(request(), variants=(Variant("lora", learning_rate=9e-3),))
    (further,) = enqueue_sweep(asked, tmp_path, onto=first)
    assert further.sweep_id == first[0].sweep_id
    assert further.base_run_id == first[0].run_id
    assert further.run_id.endswith("-03-lora")


def test_a_sweep_of_which_runs_were_removed_can_be_gone_on_with(tmp_path: Path) -> None:
    base, removed, *others = enqueue_sweep(request(), tmp_path)
    shutil.rmtree(tmp_path / removed.run_id)
    (again,) = enqueue_sweep(
        replace(request(), variants=(Variant("lora"),)), tmp_path, onto=[base, *others]
    )
    assert again.run_id.endswith("-03-lora")
    assert (tmp_path / again.run_id).is_dir()


def test_a_ladder_is_read_from_its_runs_lowest_rate_first_seeds_together(tmp_path: Path) -> None:
    make_run(tmp_path, "base", settings=TUNING, measures={"eval_loss_before": 2.5})
    make_rung(tmp_path, 3e-3, 0.5)
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 1e-3, 0.7, seed=1)
    make_run(tmp_path, status="failed", seed=1, learning_rate=9e-3, settings=TUNING)
    make_rung(tmp_path, 9e-3, None)
    (found,) = ladders_of(RunStore(tmp_path).runs())
    assert found.points == (
        Point(1e-3, "done", (0.9, 0.7), (0.8,) * 4),
        Point(3e-3, "done", (0.5,), (0.5,) * 4),
        Point(9e-3, "diverged", (), found.points[2].examples),
    )
    assert (found.base_loss, found.suggestion.rate) == (2.5, 3e-3)


@pytest.mark.parametrize(
    "other", [{"method": "dora"}, {"method": "lora", "hyperparameters": {"r": 4}}]
)
def test_runs_that_differ_by_more_than_the_rate_are_ladders_of_their_own(
    other: dict[str, object], tmp_path: Path
) -> None:
    make_rung(tmp_path, 3e-3, 0.5)
    make_run(tmp_path, learning_rate=1e-3, settings=TUNING, **other)  # type: ignore[arg-type]
    assert [len(one.points) for one in ladders_of(RunStore(tmp_path).runs())] == [1, 1]


def test_a_sweep_may_hold_a_ladder_of_each_of_its_variants(tmp_path: Path) -> None:
    make_run(tmp_path, "base", settings=TUNING, measures={"eval_loss_before": 2.5})
    make_run(
        tmp_path, "base", settings=TUNING, base_precision="nf4", measures={"eval_loss_before": 3.5}
    )
    make_rung(tmp_path, 3e-3, 0.5)
    make_rung(tmp_path, 1e-3, 0.9)
    for rate, loss in ((1e-3, 0.4), (3e-3, 0.8)):
        make_run(
            tmp_path, "qlora", learning_rate=rate, settings=TUNING,
            measures={"eval_loss_after": loss},
        )  # fmt: skip
    lora, qlora = ladders_of(RunStore(tmp_path).runs())
    assert (lora.variant.method, lora.base_loss, lora.suggestion.rate) == ("lora", 2.5, 3e-3)
    assert (qlora.variant.method, qlora.base_loss, qlora.suggestion.rate) == ("qlora", 3.5, 1e-3)
    assert latest_ladders(RunStore(tmp_path).runs()) == [lora, qlora]


def test_the_newest_ladder_on_the_tuning_split_counts(tmp_path: Path) -> None:
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 3e-3, 0.5, sweep=LATER)
    make_run(tmp_path, "lora", sweep_id="20261127-080000-ef56", learning_rate=9e-3)
    make_run(
        tmp_path, "lora", "queued", sweep_id="20261128-080000-ef56", learning_rate=5e-3,
        settings=TUNING,
    )  # fmt: skip
    (found,) = latest_ladders(RunStore(tmp_path).runs())
    assert [point.rate for point in found.points] == [3e-3]


def test_the_document_holds_rule_conditions_and_ladders_and_how_far_a_default_lies_behind(
    tmp_path: Path,
) -> None:
    default = Variant("lora").spec.learning_rate
    for rate, loss in ((default / 4, None), (default, 0.6), (2 * default, 0.5), (4 * default, 0.7)):
        make_rung(tmp_path, rate, loss)
    text = document(latest_ladders(RunStore(tmp_path).runs()), "python -m ftlab tune --method lora")
    assert "    python -m ftlab tune --method lora\n" in text
    assert "- Measured on: 64 tuning examples\n" in text
    assert "at most 1 % higher" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| LoRA |")]
    assert ": diverged" in row
    assert ": 0.500**" in row
    assert "has a loss 20.0 % above that at" in text


def test_the_document_has_no_word_on_defaults_that_are_the_suggestion(tmp_path: Path) -> None:
    make_rung(tmp_path, Variant("lora").spec.learning_rate, 0.5)
    assert "not the suggestion" not in document(latest_ladders(RunStore(tmp_path).runs()), "")


@pytest.mark.parametrize(
    ("found", "rates"),
    [
        (around(2e-3), (6.7e-4, 2e-3, 6e-3)),
        (around(2e-3, points=4), (6.7e-4, 2e-3, 6e-3, 1.8e-2)),
        (around(2e-3, points=1), (2e-3,)),
        (around(5.0), (1.7, 5.0)),  # never above the highest valid rate
        (between(1e-4, 1e-1, 4), (1e-4, 1e-3, 1e-2, 1e-1)),
        (between(1.234e-4, 1e-3, 3), (1.234e-4, 3.5e-4, 1e-3)),  # both ends exactly
        (between(1e-3, 2e-3, 2), (1e-3, 2e-3)),
        (parse_rates("1e-2, 1e-3,0.01"), (1e-3, 1e-2)),
        (beyond((1e-3, 2e-3, 8e-3), up=True), 3.2e-2),  # as far as the neighbour within
        (beyond((1e-3, 2e-3, 8e-3), up=False), 5e-4),
        (beyond((1e-3,), up=True), 3e-3),
        (beyond((1e-3,), up=False), 3.3e-4),
        (beyond((2.0, 6.0), up=True), None),
    ],
)
def test_the_rates_of_a_ladder_and_the_next_beyond_it(found: object, rates: object) -> None:
    assert found == rates


@pytest.mark.parametrize(
    ("low", "high", "points", "part"),
    [
        (1e-2, 1e-3, 3, "from 0.01 to 0.001"),
        (0.0, 1e-3, 3, "must lie above 0"),
        (1e-3, 11.0, 3, "10 at most"),
        (1e-3, 1e-2, 1, "2 or more"),
        (1e-3, 1e-2, 21, "1 to 20"),
    ],
)
def test_a_ladder_that_cannot_be_made_is_said(
    low: float, high: float, points: int, part: str
) -> None:
    with pytest.raises(FtlabError, match=part):
        between(low, high, points)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1e-3", "nan", "inf", "11"])
def test_what_is_no_learning_rate_is_refused(text: str) -> None:
    with pytest.raises(FtlabError, match="Rates"):
        parse_rates(text)


def points_of(losses: dict[float, float | None]) -> list[Point]:
    """Points by rate; `None` is a diverged run."""
    return [
        Point(rate, "diverged") if loss is None else Point(rate, "done", (loss,))
        for rate, loss in losses.items()
    ]


@pytest.mark.parametrize(
    ("losses", "rate", "reason", "next_rate"),
    [
        ({0.01: 0.9, 0.03: 0.5, 0.09: 0.7}, 0.03, "0.03 has the lowest loss, 0.500.", None),
        (
            {0.01: 0.9, 0.03: 0.504, 0.09: 0.5, 0.27: 0.6},
            0.03,
            "0.03 and 0.09 lie within noise (0.504 against 0.500)",
            None,
        ),
        ({0.01: 0.9, 0.03: 0.506, 0.09: 0.5, 0.27: 0.6}, 0.09, "0.09 has the lowest loss", None),
        ({0.01: 0.9, 0.03: 0.5, 0.09: None}, 0.03, "", None),  # above are only diverged runs
        (
            {0.01: 0.5, 0.03: 0.7, 0.09: 0.9},
            0.01,
            "the lowest of the ladder: a lower rate may do better",
            0.0033,
        ),
        (
            {0.01: 0.9, 0.03: 0.7, 0.09: 0.5},
            0.09,
            "the highest of the ladder: a higher rate may do better",
            0.27,
        ),
        ({0.01: None, 0.03: None}, None, "Every run diverged, also at 0.01", 0.0033),
    ],
)
def test_the_smallest_of_the_best_rates_is_suggested_and_extends_a_ladder_at_its_end(
    losses: dict[float, float | None], rate: float | None, reason: str, next_rate: float | None
) -> None:
    points = points_of(losses)
    assert suggest(points).rate == rate
    assert reason in suggest(points).reason
    assert extension(points) == next_rate


def test_a_difference_that_the_examples_do_not_bear_out_is_noise() -> None:
    best = Point(0.03, "done", (0.5,), (0.9, 0.1, 0.9, 0.1))
    now_and_then = Point(0.01, "done", (0.53,), (0.1, 0.9, 0.1, 1.02))
    assert suggest([now_and_then, best]).rate == 0.01
    always_worse = Point(0.01, "done", (0.53,), (0.93, 0.13, 0.93, 0.13))
    assert suggest([always_worse, best]).rate == 0.03


def test_seeds_count_by_their_mean_and_one_that_diverged_excludes_its_rate() -> None:
    points = [Point(0.01, "done", (0.4, 0.8)), Point(0.03, "done", (0.55, 0.55))]
    assert suggest(points).rate == 0.03
    points = [Point(0.01, "done", (0.9,)), Point(0.03, "diverged", (0.1,))]
    assert suggest(points).rate == 0.01


def test_a_method_that_is_not_applicable_or_fails_has_no_suggestion_and_no_more_runs() -> None:
    for status, words in (("not_applicable", "not applicable"), ("failed", "reasons of the runs")):
        points = [Point(0.01, status), Point(0.03, status)]
        assert suggest(points).rate is None
        assert words in suggest(points).reason
        assert extension(points) is None


LLAMA_8B = ModelSize("llama", 4096)
LADDERS_REQUEST = SweepRequest(
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
        assert not any(validate_variant(Variant(method, {}, rate)) for rate in ladder.rates)


def test_a_ladder_trains_as_the_request_says_and_measures_the_tuning_loss_alone() -> None:
    asked = ladder_request(LADDERS_REQUEST, [Ladder(Variant("lora"), (1e-3, 3e-3))])
    assert asked.variants == (Variant("lora", {}, 1e-3), Variant("lora", {}, 3e-3))
    assert (asked.settings.steps, asked.seeds) == (7, (3,))
    assert (asked.settings.eval_split, asked.settings.eval_answers) == ("tuning", False)
    assert asked.settings.learning_rate is None
    assert (asked.settings.eval_every, asked.settings.report_to) == (0, ())
    assert validate(asked) == []


def test_the_ladders_of_several_variants_are_one_sweep_with_one_base_run(tmp_path: Path) -> None:
    ladders = [starting_ladder(variant, TUNED_ON) for variant in (Variant("lora"), Variant("full"))]
    specs = enqueue_ladders(LADDERS_REQUEST, ladders, tmp_path)
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


PAGE = Path(__file__).parents[2] / "docs" / "learning-rates.md"


WITHOUT_LADDER = {"bitfit"}  # the bundled model has no biases


@pytest.mark.parametrize("method", [method for method in METHODS if method not in WITHOUT_LADDER])
def test_every_method_has_a_row_whose_default_is_the_registrys(method: str) -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    spec = METHODS[method]
    (row,) = [cells for cells in rows if cells[0] == f"| {spec.label}"]
    assert row[-1] == f"{rate_name(spec.learning_rate)} |"


def test_the_page_says_by_which_rules_rates_go_with_the_size_and_whose_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert sizes_section() in page
    for spec in METHODS.values():
        assert spec.rate_rule.url in page
        if spec.rate_rule is not BY_WIDTH:
            assert spec.label in sizes_section()
