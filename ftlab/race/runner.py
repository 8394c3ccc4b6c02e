"""What trains the candidates of a race: runs of the queue, or recorded curves in a replay."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ftlab.basics.devices import like_devices
from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import ensure_dispatcher, request_cancel, start_dispatcher
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.tuning import tuning_settings
from ftlab.race.record import RaceDirectory, RaceRequest
from ftlab.records.result import OPEN, Status
from ftlab.records.resume import ask_to_resume, begin_anew
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run, read_run
from ftlab.settings.training import TrainingSettings

_SECONDS_BETWEEN_LOOKS = 0.3


@dataclass(frozen=True)
class Reading:
    """A candidate after a rung. `losses` are of each tuning example, in nats per token, and
    `tokens` their weights; `loss` is their mean, `None` if it has none, and `reason` says why.

    `costs` are `step_seconds`, `net_peak_bytes` and `trainable`, as far as they are known.
    `is_kept`: it was reported before, by a process that was cut off or stopped.
    """

    candidate: int
    loss: float | None = None
    losses: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    costs: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    is_kept: bool = False

    def event(self, step: int) -> dict[str, Any]:
        """The reading as an event of the race; `reading_of` is the inverse."""
        return {
            "event": "reading",
            "candidate": self.candidate,
            "step": step,
            "loss": self.loss,
            "losses": [round(loss, 4) for loss in self.losses],
            "tokens": list(self.tokens),
            "costs": self.costs,
            "reason": self.reason,
        }


def reading_of(event: Mapping[str, Any]) -> Reading:
    return Reading(
        event["candidate"], event["loss"], tuple(event["losses"]), tuple(event["tokens"]),
        dict(event["costs"]), event["reason"], is_kept=True,
    )  # fmt: skip


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


_SECONDS_BETWEEN_SIGNS = 10.0
"""How often the clock is written down, and a dispatcher that died is started again."""


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
        self._clock, self._began = clock, clock() - earlier
        self._runs: dict[int, str] = {}
        self._kept: dict[tuple[int, int], Reading] = {}
        self._trials: list[RunSpec] = []
        self._finals: list[RunSpec] = []
        self._here = set(measured_here)
        # So the next starts without a pause on every device, and few are cancelled at the end.
        self._at_once = 1 + len(like_devices(request.request.device))
        self._signed = 0.0
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
            run = self._read(spec.run_id) if spec.is_base else None
            if run is not None and run.result is not None:
                loss = run.result.measures.eval_loss_before
                if loss is not None:
                    return loss
        return None

    def train(self, candidates: Sequence[int], step: int, until: float) -> Iterator[Reading]:
        kept = {one: self._kept[one, step] for one in candidates if (one, step) in self._kept}
        yield from kept.values()
        waiting, training = [one for one in candidates if one not in kept], list[int]()
        if waiting and self.elapsed < until:
            self._revive([spec for spec in self._trials if spec.is_base])
        while waiting or training:
            is_over = self.elapsed >= until
            if is_over:
                waiting.clear()
                self._end([self._runs[candidate] for candidate in training])
            while waiting and len(training) < self._at_once:
                candidate = waiting.pop(0)
                reading = self._go(candidate, step)
                if reading is None:
                    training.append(candidate)
                else:
                    yield reading
            ended = [one for one in training if not self._is_open(self._runs[one])]
            for candidate in ended:
                training.remove(candidate)
                reading = self._reading(candidate, step)
                if reading.loss is not None or not is_over:
                    yield reading
            if training and not ended:
                self._wait()

    def score(self, candidates: Sequence[int], seed: int, until: float) -> bool:
        variants = tuple(self._request.request.variants[one] for one in candidates)
        own = [spec for spec in self._finals if spec.is_base or spec.seed == seed]
        self._revive(own)
        known = {repr(spec.variant) for spec in own}
        missing = tuple(one for one in variants if repr(one) not in known)
        if missing:
            request = replace(self._request.request, variants=missing, seeds=(seed,))
            self._queue(request, self._finals, "finals")
        ids = [spec.run_id for spec in self._finals]
        while any(map(self._is_open, ids)):
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
        run = None if run_id is None else self._read(run_id)
        try:
            if run_id is None:
                self._queue_trial(candidate, step)
            elif run is None or _is_at(run, step) or run.status not in (*OPEN, *_CUT_OFF):
                return self._reading(candidate, step)
            elif run.is_open:
                start_dispatcher(self._race.runs_folder)
            else:
                run.directory.pause_after(step)
                self._revive([run.spec])
        except FtlabError as error:
            return Reading(candidate, reason=str(error))
        return None

    def _revive(self, specs: Iterable[RunSpec]) -> None:
        """Has runs that were cut off or cancelled go on: from a checkpoint, or else anew."""
        for spec in specs:
            run = self._read(spec.run_id)
            if run is None or run.status not in _CUT_OFF:
                continue
            if run.resumes_from is None:
                begin_anew(run.directory)
            else:
                ask_to_resume(run.directory)
            start_dispatcher(self._race.runs_folder)

    def _queue_trial(self, candidate: int, step: int) -> None:
        request = self._request.request
        settings = trial_settings(request.settings, self._rungs)
        variants = (request.variants[candidate],)
        asked = replace(request, variants=variants, seeds=request.seeds[:1], settings=settings)
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

    def _take(self, event: Mapping[str, Any]) -> None:
        """Takes up what was measured and queued. Runs that were removed since stay removed."""
        if event.get("event") == "reading":
            self._kept[event["candidate"], event["step"]] = reading_of(event)
        if event.get("event") != "queued":
            return
        found = [run.spec for run in map(self._read, event["runs"]) if run is not None]
        (self._finals if event["kind"] == "finals" else self._trials).extend(found)
        if event["kind"] == "trial":
            self._runs[event["candidate"]] = event["runs"][-1]

    def _reading(self, candidate: int, step: int) -> Reading:
        run = self._read(self._runs[candidate])
        if run is None:
            return Reading(candidate, reason="its run was removed")
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

    def _read(self, run_id: str) -> Run | None:
        """`None` if somebody removed the run, or damaged it."""
        try:
            return read_run(RunDirectory(self._race.runs_folder / run_id))
        except FtlabError:
            return None

    def _is_open(self, run_id: str) -> bool:
        run = self._read(run_id)
        return run is not None and run.is_open

    def _end(self, run_ids: Iterable[str]) -> None:
        """Cancels the open ones of these runs, and waits for their end."""
        left = [run_id for run_id in run_ids if self._is_open(run_id)]
        if left:
            request_cancel(self._race.runs_folder, left)
        while any(map(self._is_open, left)):
            self._sign()
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _wait(self) -> None:
        if self._race.cancel_file.exists():
            raise StoppedError
        self._sign()
        time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _sign(self) -> None:
        now = self.elapsed
        if now - self._signed >= _SECONDS_BETWEEN_SIGNS:
            self._signed = now
            self._race.report({"event": "clock", "elapsed": round(now, 1)})
            ensure_dispatcher(self._race.runs_folder)


_CUT_OFF: frozenset[Status] = frozenset({"cancelled", "interrupted"})


def _is_at(run: Run, step: int) -> bool:
    """Whether the run has ended after exactly that step, and was evaluated there."""
    if run.result is None or run.result.measures.eval_loss_after is None:
        return False
    done = run.spec.settings.steps if run.status == "done" else run.result.measures.steps_done
    return done == step
