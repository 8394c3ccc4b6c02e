"""How a race goes: who goes on, within which time, and what is said of those who leave."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.race.conduct import compared_values
from ftlab.race.runner import Reading
from tests.race.invented import InventedRunner, conducted, race_request

METHODS = ("lora", "dora", "ia3", "vera", "full", "prompt_tuning")


def said(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def falling(candidate: int, step: int) -> float:
    """The later a candidate, the worse."""
    return 1 + candidate / 10 + 1 / step


def test_the_best_of_each_method_are_scored_over_all_seeds_and_nobody_else() -> None:
    runner = InventedRunner(falling)
    conductor, events = conducted(race_request(*METHODS), runner)
    assert conductor.finalists == (0, 1)
    assert runner.scored == [((0, 1), seed) for seed in (0, 1, 2)]
    assert runner.trained == [*((one, 5) for one in range(6)), (0, 15), (1, 15)]
    assert sorted(runner.left) == [2, 3, 4, 5]
    assert [(event["step"], event["candidates"]) for event in said(events, "rung")] == [
        (5, 6), (15, 2),
    ]  # fmt: skip


def test_neighbours_of_the_methods_that_did_best_are_tried_first() -> None:
    variants = ("lora", "ia3", "full", "lora:learning_rate=1e-3", "ia3:learning_rate=1e-3",
                "full:learning_rate=1e-3")  # fmt: skip
    order = {0: 2.0, 1: 1.5, 2: 1.0, 3: 0.5, 4: 3.0, 5: 3.0}
    runner = InventedRunner(lambda candidate, step: order[candidate])
    conductor, _ = conducted(race_request(*variants, defaults=3), runner)
    assert [one for one, step in runner.trained if step == 5] == [0, 1, 2, 5, 4, 3]
    assert conductor.finalists[0] == 3


def test_neighbours_of_a_method_that_diverged_are_tried_last() -> None:
    variants = ("full", "lora", "full:learning_rate=1e-5", "lora:learning_rate=1e-3")
    runner = InventedRunner(lambda candidate, step: {0: None, 1: 2.0, 2: 1.0, 3: 3.0}[candidate])
    conductor, _ = conducted(race_request(*variants, defaults=2), runner)
    assert [candidate for candidate, step in runner.trained if step == 5] == [0, 1, 3, 2]
    assert conductor.finalists == (2, 1)


def test_two_candidates_of_one_method_do_not_both_take_a_place_of_another() -> None:
    variants = ("lora", "lora:learning_rate=1e-3", "ia3")
    conductor, _ = conducted(race_request(*variants), InventedRunner(falling))
    assert conductor.finalists == (0, 2)


def test_if_one_method_alone_goes_on_its_two_best_candidates_are_scored() -> None:
    variants = ("lora", "ia3", "lora:learning_rate=1e-3", "lora:learning_rate=6e-3", "vera", "oft")
    order = {0: 1.0, 1: 1.3, 2: 1.1, 3: 1.2, 4: 2.0, 5: 2.1}
    conductor, _ = conducted(
        race_request(*variants), InventedRunner(lambda candidate, step: order[candidate])
    )
    assert conductor.finalists == (0, 2)


@pytest.mark.parametrize("minutes", [1, 2, 5, 30])
def test_with_little_time_fewer_are_tried_or_scored_and_there_is_an_answer(
    minutes: float,
) -> None:
    runner = InventedRunner(falling)
    conductor, events = conducted(race_request(*METHODS, minutes=minutes), runner)
    assert conductor.readings
    if minutes < 5:
        assert said(events, "no_time") or len(runner.scored) < 3


def test_a_seed_that_has_no_time_is_not_begun_and_that_is_said() -> None:
    runner = InventedRunner(falling, score_seconds=100)
    _, events = conducted(race_request(*METHODS, minutes=6), runner)
    assert runner.scored == [((0, 1), 0)]
    (note,) = said(events, "note")
    assert note["sentence"] == (
        "There is no time for seed 1: 1 min 40 s are left, and the seed before took 3 min 20 s."
    )


def test_without_time_for_one_candidate_nobody_is_a_finalist() -> None:
    runner = InventedRunner(falling, step_seconds=lambda candidate: 1000.0)
    conductor, events = conducted(race_request(*METHODS, minutes=1), runner)
    assert (conductor.finalists, conductor.tried, runner.scored) == ((), 0, [])
    (none,) = [event for event in said(events, "no_time") if event["step"] == 5]
    assert len(none["labels"]) == 6


def test_what_diverges_leaves_with_its_reason_and_the_others_go_on() -> None:
    runner = InventedRunner(lambda one, step: None if one in (0, 2) else falling(one, step))
    conductor, events = conducted(race_request(*METHODS), runner)
    reasons = {event["label"]: event["reason"] for event in said(events, "left")}
    assert reasons["LoRA"] == "The loss is not a number at step 2."
    assert conductor.finalists == (1, 3)
    assert conductor.tried == 4


def test_if_every_candidate_diverges_nothing_is_scored() -> None:
    runner = InventedRunner(lambda one, step: None)
    conductor, _ = conducted(race_request(*METHODS), runner)
    assert (conductor.finalists, runner.scored) == ((), [])


def test_one_that_diverges_on_the_next_rung_leaves_there() -> None:
    runner = InventedRunner(
        lambda one, step: None if (one, step) == (0, 15) else falling(one, step)
    )
    conductor, events = conducted(race_request(*METHODS), runner)
    assert conductor.finalists == (1,)
    assert any(event["label"] == "LoRA" for event in said(events, "left"))


def test_if_all_that_went_on_diverge_the_others_are_scored() -> None:
    runner = InventedRunner(lambda one, step: None if step == 15 else falling(one, step))
    conductor, events = conducted(race_request(*METHODS), runner)
    assert conductor.finalists == (2, 3), "the first two went on, and diverged"
    reasons = {event["label"]: event["reason"] for event in said(events, "left")}
    assert reasons["LoRA"] == "The loss is not a number at step 2."


def test_if_the_next_rung_has_no_time_the_one_before_decides() -> None:
    runner = InventedRunner(falling, step_seconds=lambda one: 6.0, score_seconds=5)
    conductor, _ = conducted(race_request(*METHODS, minutes=6), runner)
    assert [step for _, step in runner.trained] == [5, 5, 5, 5]
    assert conductor.finalists == (0, 1)


def test_who_leaves_is_told_how_far_behind_and_whether_that_is_shown() -> None:
    runner = InventedRunner(lambda one, step: 1.0 if one == 0 else 1.5)
    _, events = conducted(race_request(*METHODS), runner)
    vera = next(event for event in said(events, "left") if event["label"] == "VeRA")
    assert vera["reason"] == "loss 1.500 after step 5, 0.500 (0.500 to 0.500) behind LoRA"
    alike = InventedRunner(lambda one, step: 1.0)
    _, events = conducted(race_request(*METHODS), alike)
    assert all("not shown to be worse" in event["reason"] for event in said(events, "left"))


def test_a_cheaper_one_goes_on_where_losses_are_as_good_as_equal_unless_the_score_counts() -> None:
    def reading(candidate: int, loss: float, memory: float) -> Reading:
        return Reading(candidate, loss, costs={"net_peak_bytes": memory})

    # The best has gained 2.0 over the untouched model; 0.1 counts as equal.
    readings = {0: reading(0, 1.0, 9e8), 1: reading(1, 1.05, 5e8), 2: reading(2, 1.5, 1e8)}
    by_score = compared_values(readings, "score", 3.0)
    assert sorted(by_score, key=lambda one: by_score[one] or 0) == [0, 1, 2]
    by_memory = compared_values(readings, "memory", 3.0)
    assert sorted(by_memory, key=lambda one: by_memory[one] or 0) == [1, 0, 2]
    readings[1] = Reading(1, 1.05)  # measured on another machine: its cost is not known
    assert compared_values(readings, "memory", 3.0) == by_score, "then the loss alone decides"
    assert compared_values(readings, "memory", 0.5) == compared_values(readings, "score", 0.5)


def test_more_than_two_are_scored_where_the_tuning_examples_show_no_difference() -> None:
    twelve = (*METHODS, "loha", "lokr", "oft", "miss", "rslora", "pissa")
    alike, _ = conducted(race_request(*twelve), InventedRunner(lambda one, step: 1.0))
    assert alike.finalists == (0, 1, 2, 3)
    apart, _ = conducted(race_request(*twelve), InventedRunner(falling))
    assert apart.finalists == (0, 1)


def test_short_runs_have_one_rung() -> None:
    runner = InventedRunner(falling)
    _, events = conducted(race_request(*METHODS, steps=2), runner)
    assert [event["step"] for event in said(events, "rung")] == [1]
    assert runner.scored
