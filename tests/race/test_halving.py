"""Successive halving by Optuna: a third goes on, and a restart goes on from the journal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ftlab.race.conduct import rungs
from ftlab.race.halving import Halving, asking_order


def study(journal: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.load_study(study_name="race", storage=storage)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 36])
def test_optunas_pruner_keeps_exactly_the_best_third_of_a_rung(count: int, tmp_path: Path) -> None:
    values = dict(enumerate(random.Random(count).sample(range(1000), count)))
    best = sorted(values, key=values.__getitem__)
    halving = Halving(tmp_path / "journal.log", 5)
    going = halving.decide(5, {one: float(value) for one, value in values.items()})
    assert going == best[: max(1, count // 3)]
    further = {one: float(-values[one]) for one in going}  # the next rung turns them round
    assert halving.decide(15, further) == going[::-1][: max(1, len(going) // 3)]


def test_every_candidate_is_asked_about_once() -> None:
    for count in range(1, 40):
        assert sorted(asking_order(dict.fromkeys(range(count), 1.0))) == list(range(count))


def test_candidates_that_are_all_alike_lose_none_by_chance(tmp_path: Path) -> None:
    halving = Halving(tmp_path / "journal.log", 5)
    assert halving.decide(5, dict.fromkeys(range(9), 1.0)) == list(range(9))


def test_a_candidate_without_a_value_never_goes_on(tmp_path: Path) -> None:
    halving = Halving(tmp_path / "journal.log", 5)
    assert halving.decide(5, {0: None, 1: 2.0, 2: None, 3: 1.0}) == [3]
    assert Halving(tmp_path / "other.log", 5).decide(5, {0: None, 1: None}) == []
    assert Halving(tmp_path / "empty.log", 5).decide(5, {}) == []


def test_a_restarted_race_decides_as_before_and_reports_nothing_twice(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    values: dict[int, float | None] = {one: float(one) for one in range(12)}
    going = Halving(journal, 5).decide(5, values)
    again = Halving(journal, 5)
    assert again.decide(5, values) == going == [0, 1, 2, 3]
    assert again.decide(15, {one: float(one) for one in going}) == [0]
    again.finish({0: 0.1})
    states = [trial.state for trial in study(journal).get_trials()]
    assert len(states) == 12
    assert [state for state in states if state == TrialState.COMPLETE] == [TrialState.COMPLETE]
    assert states.count(TrialState.PRUNED) == 11


@pytest.mark.parametrize("up", [True, False], ids=["last is best", "first is best"])
@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [(optuna.Study, "tell", at) for at in range(8)]
    + [(SuccessiveHalvingPruner, "prune", at) for at in range(12)],
)
def test_a_race_that_was_killed_while_it_decided_decides_the_same(
    owner: type, name: str, at: int, up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[int, float | None] = {one: float(-one if up else one) for one in range(12)}
    calls = 0

    def killed(self: Any, *given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise KeyboardInterrupt
        return whole(self, *given, **more)

    whole = getattr(owner, name)
    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(KeyboardInterrupt):
        Halving(tmp_path / "journal.log", 5).decide(5, values)
    monkeypatch.undo()
    best = [11, 10, 9, 8] if up else [0, 1, 2, 3]
    assert Halving(tmp_path / "journal.log", 5).decide(5, values) == best


def test_the_journal_is_one_that_optuna_itself_reads(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    Halving(journal, 5).decide(5, {one: float(one) for one in range(6)})
    trials = study(journal).get_trials()
    assert {trial.params["candidate"]: trial.intermediate_values for trial in trials} == {
        one: {5: float(one)} for one in range(6)
    }


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, (1,)), (2, (1,)), (3, (1, 3)), (12, (2, 6)), (30, (5, 15)), (200, (33, 99))],
)
def test_rungs_begin_at_a_sixth_of_the_steps_and_end_at_half(
    steps: int, expected: tuple[int, ...]
) -> None:
    assert rungs(steps) == expected
