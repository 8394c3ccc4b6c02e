"""What trains the candidates of a race: runs of the queue, or recorded curves in a replay."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import request_cancel, start_dispatcher
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.tuning import tuning_settings
from ftlab.methods.variant import Variant
from ftlab.race.record import RaceDirectory, RaceRequest
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run, RunStore, read_run
from ftlab.settings.training import TrainingSettings

_SECONDS_BETWEEN_LOOKS = 0.3
_QUEUED_AHEAD = 2
"""Runs in the queue at once: the next starts without a pause, and few are cancelled at the end."""


@dataclass(frozen=True)
class Reading:
    """A candidate after a rung. `losses` are of each tuning example, in nats per token, and
    `tokens` their weights; `loss` is their mean, `None` if it has none, and `reason` says why.

    `costs` are `step_seconds`, `net_peak_bytes` and `trainable`, as far as they are known.
    """

    candidate: int
    loss: float | None = None
    losses: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    costs: dict[str, float] = field(default_factory=dict)
    reason: str = ""


class Runner(Protocol):
    """Trains candidates, by their places in the request; times are in seconds of the race."""

    @property
    def elapsed(self) -> float:
        """Seconds of the race so far, without those in which it was cut off."""

    @property
    def base_loss(self) -> float | None:
        """The untouched model's loss on the tuning examples; `None` if it is not known."""

    def train(self, candidates: Sequence[int], step: int, until: float) -> Iterator[Reading]:
        """Trains each candidate, in that order, from where it is to the step; yields its reading.

        What is not done at the time `until` is ended, and has no reading.
        """

    def score(self, candidates: Sequence[int], seed: int, until: float) -> bool:
        """Trains the candidates anew and scores them on the test split; whether all had time."""

    def leave(self, candidate: int) -> None:
        """The candidate does not go on: what only its next steps need can go."""


class StoppedError(Exception):
    """Somebody asked the race to stop."""


TRIAL_EXAMPLES = 32
"""Most tuning examples that a candidate is measured on: 64 take as long as five steps of training,
and twice as many candidates tell more."""


def trial_settings(settings: TrainingSettings, rungs: Sequence[int]) -> TrainingSettings:
    """Those of candidates up to the last rung: a constant rate, which may go on from any step.

    The warm-up is over after a quarter of the first rung, which would else compare little more.
    """
    return replace(
        tuning_settings(settings),
        steps=rungs[-1],
        schedule="constant",
        warmup_steps=min(settings.warmup_steps, rungs[0] // 4),
        checkpoint_every=rungs[-1],
        eval_examples=min(settings.eval_examples, TRIAL_EXAMPLES),
    )


class QueuedRunner:
    """Trains by runs of the queue, as any sweep; a restarted one goes on from its events.

    `earlier` is the seconds that the race took before this process. Costs that were measured on
    another machine are left out: `measured_here` are the runs whose costs count already.
    """

    def __init__(
        self,
        race: RaceDirectory,
        request: RaceRequest,
        rungs: Sequence[int],
        earlier: float = 0.0,
        measured_here: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._race, self._request, self._rungs = race, request, rungs
        self._store = RunStore(race.runs_folder)
        self._clock, self._began = clock, clock() - earlier
        self._runs: dict[int, str] = {}
        self._trials: list[RunSpec] = []
        self._finals: list[RunSpec] = []
        self._here = set(measured_here)
        for event in race.events():
            self._take(event)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def trials(self) -> str:
        """The id of the sweep of the candidates, "" if there is none yet."""
        return self._trials[0].sweep_id if self._trials else ""

    @property
    def finals(self) -> str:
        """The id of the sweep that is scored on the test split, "" if there is none yet."""
        return self._finals[0].sweep_id if self._finals else ""

    @property
    def base_loss(self) -> float | None:
        for spec in self._trials:
            result = self._read(spec.run_id).result if spec.is_base else None
            if result is not None and result.measures.eval_loss_before is not None:
                return result.measures.eval_loss_before
        return None

    def train(self, candidates: Sequence[int], step: int, until: float) -> Iterator[Reading]:
        waiting, training = list(candidates), list[int]()
        while waiting or training:
            is_over = self.elapsed >= until
            if is_over:
                waiting.clear()
                self._end([self._runs[candidate] for candidate in training])
            while waiting and len(training) < _QUEUED_AHEAD:
                candidate = waiting.pop(0)
                reading = self._go(candidate, step)
                if reading is None:
                    training.append(candidate)
                else:
                    yield reading
            ended = [one for one in training if not self._read(self._runs[one]).is_open]
            for candidate in ended:
                training.remove(candidate)
                reading = self._reading(candidate, step)
                if reading.loss is not None or not is_over:
                    yield reading
            if training and not ended:
                self._wait()

    def score(self, candidates: Sequence[int], seed: int, until: float) -> bool:
        variants = tuple(self._request.request.variants[one] for one in candidates)
        known = {(repr(spec.variant), spec.seed) for spec in self._finals}
        missing = tuple(one for one in variants if (repr(one), seed) not in known)
        if missing:
            request = replace(self._request.request, variants=missing, seeds=(seed,))
            self._queue(request, self._finals, "finals")
        ids = [spec.run_id for spec in self._finals]
        while any(self._read(run_id).is_open for run_id in ids):
            if self.elapsed >= until:
                self._end(ids)
                return False
            self._wait()
        return True

    def leave(self, candidate: int) -> None:
        if candidate in self._runs:
            directory = RunDirectory(self._race.runs_folder / self._runs[candidate])
            shutil.rmtree(directory.checkpoints, ignore_errors=True)

    def end_all(self) -> None:
        """Cancels every open run of the race, and waits for their end."""
        self._end([spec.run_id for spec in (*self._trials, *self._finals)])

    def _go(self, candidate: int, step: int) -> Reading | None:
        """Queues the candidate up to the step; its reading if it is there already or never is."""
        run_id = self._runs.get(candidate)
        if run_id is None:
            variant = self._request.request.variants[candidate]
            try:
                self._queue_trial(candidate, variant, step)
            except FtlabError as error:
                return Reading(candidate, reason=str(error))
            return None
        run = self._read(run_id)
        if run.is_open:
            start_dispatcher(self._race.runs_folder)
            return None
        if _is_at(run, step) or run.resumes_from is None:
            return self._reading(candidate, step)
        run.directory.pause_after(step)
        ask_to_resume(run.directory)
        start_dispatcher(self._race.runs_folder)
        return None

    def _queue_trial(self, candidate: int, variant: Variant, step: int) -> None:
        settings = trial_settings(self._request.request.settings, self._rungs)
        request = self._request.request
        asked = replace(request, variants=(variant,), seeds=request.seeds[:1], settings=settings)
        specs = self._queue(asked, self._trials, "trial", step, candidate=candidate)
        self._here.update(spec.run_id for spec in specs)

    def _queue(
        self,
        request: SweepRequest,
        onto: Sequence[RunSpec],
        kind: str,
        pause_after: int | None = None,
        **more: Any,
    ) -> list[RunSpec]:
        specs = enqueue_sweep(checked(request), self._race.runs_folder, onto, pause_after)
        ids = [spec.run_id for spec in specs]
        event = {"event": "queued", "kind": kind, "runs": ids, **more}
        self._race.report(event | {"elapsed": round(self.elapsed, 1)})
        self._take(event)
        start_dispatcher(self._race.runs_folder)
        return specs

    def _take(self, event: dict[str, Any]) -> None:
        """Takes up what was queued. Runs that were removed since count as never queued."""
        if event.get("event") != "queued":
            return
        try:
            specs = [self._read(run_id).spec for run_id in event["runs"]]
        except FtlabError:
            return
        (self._finals if event["kind"] == "finals" else self._trials).extend(specs)
        if event["kind"] == "trial":
            self._runs[event["candidate"]] = specs[-1].run_id

    def _reading(self, candidate: int, step: int) -> Reading:
        run = self._read(self._runs[candidate])
        if not _is_at(run, step) or run.result is None:
            return Reading(candidate, reason=run.reason)
        measures, rows = run.result.measures, run.directory.samples()
        is_here = run.run_id in self._here
        costs = {
            "step_seconds": measures.step_seconds if is_here else None,
            "net_peak_bytes": measures.net_peak_memory_bytes if is_here else None,
            "trainable": measures.trainable_params,
        }
        return Reading(
            candidate,
            measures.eval_loss_after,
            tuple(float(row["loss_after"]) for row in rows),
            tuple(float(row["tokens"]) for row in rows),
            {key: float(value) for key, value in costs.items() if value is not None},
        )

    def _read(self, run_id: str) -> Run:
        return read_run(RunDirectory(self._race.runs_folder / run_id))

    def _end(self, run_ids: Sequence[str]) -> None:
        """Cancels the open ones of these runs, and waits for their end."""
        left = [run_id for run_id in run_ids if self._read(run_id).is_open]
        if left:
            request_cancel(self._race.runs_folder, left)
        while any(self._read(run_id).is_open for run_id in left):
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _wait(self) -> None:
        if self._race.cancel_file.exists():
            raise StoppedError
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _is_at(run: Run, step: int) -> bool:
    """Whether the run has ended after exactly that step, and was evaluated there."""
    if run.result is None or run.result.measures.eval_loss_after is None:
        return False
    done = run.spec.settings.steps if run.status == "done" else run.result.measures.steps_done
    return done == step
