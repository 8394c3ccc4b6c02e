"""Which candidates go on: successive halving by Optuna, kept in its journal.

Each candidate is a trial of one study. After each rung (a number of steps) the value of every
trial is reported, and Optuna's `SuccessiveHalvingPruner` says which are pruned (Jamieson &
Talwalkar 2016; Li et al. 2020, "A system for massively parallel hyperparameter tuning").
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ftlab.race.conduct import REDUCTION

_STUDY, _CANDIDATE = "race", "candidate"


def asking_order(values: Mapping[int, float]) -> list[int]:
    """The candidates in the order in which the pruner keeps exactly the best third of them.

    Its rule is for trials that arrive one after another: the n-th is kept if it is among the best
    n // 3 of those so far, and the first if it is the best. So each place that adds one to these is
    given to the next best, and the others to the worst. Fewer than 3 leave one.
    """
    best, worst = _best_third(values)
    order = []
    for place in range(1, len(values) + 1):
        is_kept = place == 1 or (place >= 2 * REDUCTION and place % REDUCTION == 0)
        order.append(best.pop(0) if is_kept else worst.pop())
    return order


def _best_third(values: Mapping[int, float]) -> tuple[list[int], list[int]]:
    """The candidates that are kept, and the others; the best first. Fewer than 3 leave one."""
    ranked = sorted(values, key=lambda candidate: (values[candidate], candidate))
    kept = max(1, len(ranked) // REDUCTION)
    return ranked[:kept], ranked[kept:]


_DECIDED = "completed_rung_"
"""Begins what the pruner notes at a trial for each rung of which it decides."""


def _is_decided(trial: FrozenTrial, step: int) -> bool:
    """Whether the pruner has decided about the trial at that rung, the last that was reported."""
    decided = sum(key.startswith(_DECIDED) for key in trial.system_attrs)
    return step in trial.intermediate_values and decided >= len(trial.intermediate_values)


class Halving:
    """The study of one race; after a restart it goes on from the journal."""

    def __init__(self, journal: Path, first_rung: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal))),
                study_name=_STUDY,
                direction="minimize",
                load_if_exists=True,
                pruner=SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=REDUCTION),
            )

    def decide(self, step: int, values: Mapping[int, float | None]) -> list[int]:
        """Reports each candidate's value at a rung, less is better; returns those that go on.

        `None`: it has no value, as it diverged. The best come first.
        """
        self._enter(values)
        trials = self._trials(TrialState.RUNNING)
        before = [one for one, trial in trials.items() if _is_decided(trial, step)]
        for candidate in [one for one, value in values.items() if value is None]:
            self._ask(trials.get(candidate), step, nan)
        known = {one: value for one, value in values.items() if value is not None}
        for candidate in asking_order(known):
            self._ask(trials.get(candidate), step, known[candidate])
        self._prune_cut_off(before, known)
        left = self._trials(TrialState.PRUNED)
        return sorted((one for one in known if one not in left), key=known.__getitem__)

    def finish(self, values: Mapping[int, float]) -> None:
        """Completes the trials of the finalists, and prunes all that still run."""
        for candidate, trial in self._trials(TrialState.RUNNING).items():
            if candidate in values:
                self._study.tell(trial.number, values[candidate])
            else:
                self._study.tell(trial.number, state=TrialState.PRUNED)

    def _ask(self, frozen: FrozenTrial | None, step: int, value: float) -> None:
        """Has the pruner decide about a trial, unless it did before the process was cut off."""
        if frozen is None or _is_decided(frozen, step):
            return
        trial = Trial(self._study, frozen._trial_id)
        if step not in frozen.intermediate_values:
            trial.report(value, step)
        if trial.should_prune():
            self._study.tell(trial.number, state=TrialState.PRUNED)

    def _prune_cut_off(self, before: Sequence[int], values: Mapping[int, float]) -> None:
        """Prunes the trial about which the pruner had decided when the process was killed, but
        which was not told yet: it does not decide twice about a rung. `before` are those decided.
        """
        best, worst = _best_third(values)
        trials = self._trials(TrialState.RUNNING)
        for candidate in worst:
            is_cut_off = candidate in before and candidate in trials
            if is_cut_off and values[candidate] > values[best[-1]]:
                self._study.tell(trials[candidate].number, state=TrialState.PRUNED)

    def _enter(self, candidates: Iterable[int]) -> None:
        """Starts a trial of each candidate that has none."""
        entered = self._trials()
        for candidate in candidates:
            if candidate not in entered:
                self._study.ask().suggest_int(_CANDIDATE, candidate, candidate)

    def _trials(self, *states: TrialState) -> dict[int, FrozenTrial]:
        """The trials in these states, or all, by candidate; without those of a process that was
        killed before it named the candidate."""
        every = self._study.get_trials(deepcopy=False, states=states or None)
        return {int(one.params[_CANDIDATE]): one for one in every if _CANDIDATE in one.params}
