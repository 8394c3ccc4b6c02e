"""Which candidates go on: successive halving by Optuna, kept in its journal.

Each candidate is a trial of one study. After each rung (a number of steps) the value of every
trial is reported, and Optuna's `SuccessiveHalvingPruner` says which are pruned (Jamieson &
Talwalkar 2016; Li et al. 2020, "A system for massively parallel hyperparameter tuning").
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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
    ranked = sorted(values, key=lambda candidate: (values[candidate], candidate))
    kept = max(1, len(ranked) // REDUCTION)
    best, worst = ranked[:kept], ranked[kept:]
    order = []
    for place in range(1, len(ranked) + 1):
        is_kept = place == 1 or (place >= 2 * REDUCTION and place % REDUCTION == 0)
        order.append(best.pop(0) if is_kept else worst.pop())
    return order


class Halving:
    """The study of one race; after a restart it goes on from the journal."""

    def __init__(self, journal: Path, candidates: int, first_rung: int) -> None:
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
        self._candidates = candidates

    def decide(self, step: int, values: Mapping[int, float | None]) -> list[int]:
        """Reports each candidate's value at a rung, less is better; returns those that go on.

        `None`: it has no value, as it diverged. The best come first.
        """
        trials = self._running(values)
        for candidate in [one for one, value in values.items() if value is None]:
            self._ask(trials.get(candidate), step, nan)
        known = {one: value for one, value in values.items() if value is not None}
        for candidate in asking_order(known):
            self._ask(trials.get(candidate), step, known[candidate])
        stay = self._running(())
        return sorted((one for one in known if one in stay), key=known.__getitem__)

    def finish(self, values: Mapping[int, float]) -> None:
        """Completes the trials of the finalists, and prunes all that still run."""
        for candidate, trial in self._running(()).items():
            if candidate in values:
                self._study.tell(trial.number, values[candidate])
            else:
                self._study.tell(trial.number, state=TrialState.PRUNED)

    def _ask(self, frozen: FrozenTrial | None, step: int, value: float) -> None:
        """Has the pruner decide about a trial, unless it did before the process was cut off."""
        if frozen is None or step in frozen.intermediate_values:
            return
        trial = Trial(self._study, frozen._trial_id)
        trial.report(value, step)
        if trial.should_prune():
            self._study.tell(trial.number, state=TrialState.PRUNED)

    def _running(self, entering: Sequence[int] | Mapping[int, object]) -> dict[int, FrozenTrial]:
        """The running trials by candidate; those of `entering` that have none get one."""
        every = self._study.get_trials(deepcopy=False)
        entered = {int(trial.params[_CANDIDATE]) for trial in every}
        for candidate in entering:
            if candidate not in entered:
                self._study.enqueue_trial({_CANDIDATE: candidate})
                self._study.ask().suggest_int(_CANDIDATE, 0, self._candidates - 1)
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {int(trial.params[_CANDIDATE]): trial for trial in running}
