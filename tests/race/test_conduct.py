"""How a race goes: who goes on, within which time, and what is said of those who leave."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.race.conduct import behind, compared_values, shown_behind
from ftlab.race.runner import Reading
from ftlab.records.differences import FEWEST_EXAMPLES
from ftlab.records.recommendation import Preference
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
    assert said(events, "base") == [{"event": "base", "loss": 3.0}]
    assert runner.completed == {0: falling(0, 15), 1: falling(1, 15)}


def test_of_fewer_than_six_candidates_all_go_on() -> None:
    runner = InventedRunner(falling)
    conducted(race_request(*METHODS[:5]), runner)
    assert [one for one, step in runner.trained if step == 15] == [0, 1, 2, 3, 4]


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
    conductor, events = conducted(race_request(*METHODS, minutes=6), runner)
    assert [step for _, step in runner.trained] == [5, 5, 5, 5]
    assert conductor.finalists == (0, 1)
    assert [(event["step"], len(event["labels"])) for event in said(events, "no_time")] == [
        (5, 2), (15, 4),
    ]  # fmt: skip


def test_who_leaves_is_told_how_far_behind_and_whether_that_is_shown() -> None:
    runner = InventedRunner(lambda one, step: 1.0 if one == 0 else 1.5)
    _, events = conducted(race_request(*METHODS), runner)
    vera = next(event for event in said(events, "left") if event["label"] == "VeRA")
    assert vera["reason"] == "loss 1.500 after step 5, 0.500 (0.500 to 0.500) behind LoRA"
    alike = InventedRunner(lambda one, step: 1.0)
    _, events = conducted(race_request(*METHODS), alike)
    assert all("not shown to be worse" in event["reason"] for event in said(events, "left"))


def measured(*losses: float, tokens: tuple[float, ...] = ()) -> Reading:
    mean = sum(losses) / len(losses)
    return Reading(0, mean, losses, tokens or (1.0,) * len(losses))


def test_how_far_one_is_behind_counts_each_example_by_its_tokens() -> None:
    tokens = (3.0, 1.0) * 10
    best, other = measured(*(1.0, 2.0) * 10, tokens=tokens), measured(*(1.1, 2.3) * 10)
    said = behind(other, best, 5, "LoRA")
    assert said.startswith("loss 1.700 after step 5, 0.150 (0."), "0.1 three times and 0.3 once"


def test_a_loss_that_is_higher_now_and_then_alone_is_not_shown_to_be_worse() -> None:
    best = measured(*(1.0, 1.0) * 10)
    assert not shown_behind(measured(*(0.0, 2.1) * 10), best)
    assert behind(measured(*(0.0, 2.1) * 10), best, 5, "LoRA").endswith("not shown to be worse")
    assert shown_behind(measured(*(1.0, 1.2) * 10), best)
    assert not shown_behind(best, measured(*(1.0, 1.2) * 10))
    enough = measured(*[1.0] * FEWEST_EXAMPLES), measured(*[2.0] * FEWEST_EXAMPLES)
    few = measured(*[1.0] * (FEWEST_EXAMPLES - 1)), measured(*[2.0] * (FEWEST_EXAMPLES - 1))
    assert [shown_behind(worse, good) for good, worse in (enough, few)] == [True, False]


@pytest.mark.parametrize(
    ("prefer", "order"),
    [
        ("score", [0, 1, 2, 3]),
        ("memory", [1, 0, 2, 3]),
        ("time", [2, 0, 1, 3]),
        ("file", [2, 1, 0, 3]),
    ],
)
def test_a_cheaper_one_goes_on_where_losses_are_as_good_as_equal_unless_the_score_counts(
    prefer: Preference, order: list[int]
) -> None:
    def reading(candidate: int, loss: float, memory: float, time: float, file: float) -> Reading:
        costs = {"net_peak_bytes": memory, "step_seconds": time, "trainable": file}
        return Reading(candidate, loss, costs=costs)

    # The best has gained 2.0 over the untouched model; 0.1 counts as equal, 0.12 does not.
    readings = {
        0: reading(0, 1.0, 6e8, 2.0, 9e6),
        1: reading(1, 1.05, 5e8, 3.0, 5e6),
        2: reading(2, 1.06, 9e8, 1.0, 1e6),
        3: reading(3, 1.12, 1e8, 0.1, 1e5),
    }
    found = compared_values(readings, prefer, 3.0)
    assert sorted(found, key=lambda one: found[one] or 0) == order
    by_score = compared_values(readings, "score", 3.0)
    assert compared_values(readings, prefer, 0.5) == by_score, "nothing was gained"
    readings[1] = Reading(1, 1.05)  # measured on another machine: its cost is not known
    assert compared_values(readings, prefer, 3.0) == by_score, "then the loss alone decides"


def test_more_than_two_are_scored_where_the_tuning_examples_show_no_difference() -> None:
    many = (*METHODS, "loha", "lokr", "oft", "miss", "rslora", "pissa", "hra", "boft", "shira")
    runner = InventedRunner(lambda one, step: 1.0)
    alike, _ = conducted(race_request(*many), runner)
    assert sum(step == 15 for _, step in runner.trained) == 5
    assert alike.finalists == (0, 1, 2, 3), "four at most"
    apart, _ = conducted(race_request(*many), InventedRunner(falling))
    assert apart.finalists == (0, 1)


def test_short_runs_have_one_rung() -> None:
    runner = InventedRunner(falling)
    _, events = conducted(race_request(*METHODS, steps=2), runner)
    assert [event["step"] for event in said(events, "rung")] == [1]
    assert runner.scored


def test_what_was_reported_before_a_race_was_cut_off_is_not_reported_again() -> None:
    _, events = conducted(race_request(*METHODS), InventedRunner(falling, is_kept=True))
    assert said(events, "reading") == []
    _, events = conducted(race_request(*METHODS), InventedRunner(falling))
    assert len(said(events, "reading")) == 8
