"""What a sweep will cost: its questions to the predictor, and from the answers each run's time."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ftlab.basics.cards import CONTEXT_BYTES, Card
from ftlab.basics.devices import Device, free_bytes, like_devices
from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import formatter_of, measured_examples, scored_now, training_examples
from ftlab.jobs.launch import not_applicable, plan_sweep
from ftlab.methods.variant import Variant
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import kept_rates
from ftlab.prediction.question import Prediction, Question
from ftlab.prediction.remedies import run_question
from ftlab.prediction.run_time import (
    SCORE,
    Estimate,
    Parts,
    PastRuns,
    computed,
    in_all,
    past_runs,
    run_size,
    together,
)
from ftlab.prediction.source import find_config
from ftlab.records.expected import Expected, write_expected
from ftlab.records.result import ANSWERING
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.formatting import (
    BatchSize,
    Scoring,
    longest_batch,
    mean_tokens,
    scoring_batch,
    training_order,
)
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import MAX_NEW_TOKENS

CPU_CONTEXT_BYTES = 560_000_000
"""Memory of a run's process on a CPU before the model is loaded; `before_model_bytes` of the
shipped sweeps."""


@dataclass(frozen=True)
class Longest:
    """The longest batch, and the mean tokens of all batches.

    `is_known`: counted with the model's tokenizer. Otherwise every example is assumed to have the
    maximum length that the settings allow.
    """

    batch: BatchSize
    tokens: float
    is_known: bool


def model_config(model: str) -> Mapping[str, Any]:
    """The config.json of a model on this machine or in the catalogue.

    Raises `FtlabError` if the model is in neither.
    """
    reference = parse_model(model)
    folder = local_folder(reference)
    return find_config(model if folder is None else str(folder)).config


def longest_of(request: SweepRequest) -> Longest:
    """The largest of the longest batches of all seeds.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    settings = request.settings
    if formatter_of(request.model) is None:
        rows = settings.batch_size
        most = BatchSize(rows, settings.max_length, rows * max(1, settings.max_length - 1))
        return Longest(most, rows * settings.max_length, is_known=False)
    examples = training_examples(request).formatted
    step_size = settings.batch_size * settings.accumulation
    lengths = [example.length for example in examples]
    orders = [training_order(lengths, settings.steps, step_size, seed) for seed in request.seeds]
    found = [longest_batch(examples, order, settings.batch_size)[0] for order in orders]
    return Longest(
        max(found, key=lambda one: (one.length, one.completion_tokens)),
        statistics.mean(mean_tokens(examples, order, settings.batch_size) for order in orders),
        is_known=True,
    )


def most_tokens(request: SweepRequest) -> int:
    """The most new tokens of an answer in the request's task."""
    bundled = request.task.kind == "bundled"
    return TASKS[request.task.id].max_new_tokens if bundled else MAX_NEW_TOKENS


def scoring_of(request: SweepRequest) -> Scoring | None:
    """The batch of answers that the sweep's runs score at once; `None` if they generate no answers.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    settings = request.settings
    if not settings.eval_answers:
        return None
    new_tokens = most_tokens(request)
    if formatter_of(request.model) is None:
        rows = min(EVALUATION_BATCH, scored_now(request).count)
        return Scoring(rows, settings.max_length, new_tokens)
    return scoring_batch(measured_examples(request).formatted, new_tokens)


@dataclass(frozen=True)
class Costing:
    """The questions to the predictor for a sweep: one per variant, in the same order.

    Its runs share the like `devices`.
    """

    request: SweepRequest
    questions: tuple[Question, ...]
    longest: Longest
    devices: tuple[Device, ...]

    @property
    def device(self) -> Device:
        return self.devices[0]

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.request.variants

    @property
    def card(self) -> Card:
        """The device with its free memory, and what a run's process takes besides tensors.

        The processes of a run over several share a CPU's memory; each has its part of it.
        """
        free = free_bytes(self.device)
        context = CONTEXT_BYTES if self.device.is_gpu else CPU_CONTEXT_BYTES
        size = self.device.memory_bytes if free is None else free
        size = size if self.device.is_gpu else size // self.request.settings.shard
        return Card(self.device.id, self.device.label, size, context_bytes=context)


def costing(request: SweepRequest) -> Costing:
    """Builds the questions for the request's variants.

    Raises `FtlabError` if the model's config or data are unavailable, or a setting is invalid.
    """
    config, longest = model_config(request.model), longest_of(request)
    scoring = scoring_of(request)
    devices = like_devices(request.device)
    questions = tuple(
        run_question(
            config,
            variant,
            request.settings,
            request.dtype_policy,
            longest.batch,
            devices[0],
            scoring,
        )
        for variant in request.variants
    )
    return Costing(request, questions, longest, devices)


@dataclass(frozen=True)
class SweepTimes:
    """How long the runs of a sweep take; without `rates` nothing is known."""

    asked: Costing
    past: PastRuns
    rates: Rates | None

    @cached_property
    def scored(self) -> int:
        try:
            return scored_now(self.asked.request).count
        except FtlabError:  # a data set that is not here yet
            return self.asked.request.settings.eval_examples

    def run(self, place: int, answer: Prediction) -> Estimate | None:
        """One run of the variant at that place; `None` if nothing is known of it."""
        parts = self._run(place, answer)
        return in_all(parts.values()) if parts else None

    def _run(self, place: int, answer: Prediction) -> Parts:
        method = self.asked.variants[place].method
        return self.past.run(self._computed(place, answer), self.asked.request, method)

    def sweep(self, found: Mapping[int, Prediction]) -> Estimate | None:
        """All runs that Launch would queue; `None` until everything is known."""
        return self.runs(plan_sweep(self.asked.request), found)

    def runs(self, specs: Iterable[RunSpec], found: Mapping[int, Prediction]) -> Estimate | None:
        """These runs of the sweep, as `sweep`. A method that is not applicable ends at once."""
        each = list[Estimate]()
        left_out = not_applicable(self.asked.request)
        for spec in specs:
            if spec.variant is not None and spec.variant.label in left_out:
                continue
            parts = self._parts(spec, found)
            if not parts:
                return None
            each.append(in_all(parts.values()))
        return together(each, len(self.asked.devices))

    def expected(self, spec: RunSpec, found: Mapping[int, Prediction]) -> Expected | None:
        """What is expected of one run of the sweep; `None` if nothing is known of it."""
        parts = self._parts(spec, found)
        seconds = {name: part.seconds for name, part in parts.items() if name != ANSWERING}
        return Expected(**seconds) if seconds else None

    def _parts(self, spec: RunSpec, found: Mapping[int, Prediction]) -> Parts:
        variants = self.asked.variants
        if spec.variant is not None:
            places = [place for place in found if variants[place] == spec.variant]
            return self._run(places[0], found[places[0]]) if places else {}
        for place, answer in found.items():
            if variants[place].base_precision == spec.base_precision:
                phases = self._computed(place, answer, most_tokens(self.asked.request))
                if phases:
                    return self.past.base(self.asked.request, spec, self.scored, phases[SCORE])
        return {}

    def _computed(
        self, place: int, answer: Prediction, new_tokens: int | None = None
    ) -> dict[str, float]:
        if self.rates is None:
            return {}
        settings, step = self.asked.request.settings, self.asked.questions[place].step
        size = run_size(settings, self.asked.longest.tokens, self.scored)
        return computed(answer, step, size, self.rates, new_tokens)


def times_of(asked: Costing, runs: Iterable[Run]) -> SweepTimes:
    """The times by what is known now: earlier runs, and the kept rates of the device."""
    return SweepTimes(asked, past_runs(runs, asked.device), kept_rates(asked.device))


def keep_expected(
    times: SweepTimes, found: Mapping[int, Prediction], specs: Sequence[RunSpec], folder: Path
) -> None:
    """Keeps beside the queued runs in the folder how long each should take, as far as it is known.

    Raises `OSError` if it cannot be written.
    """
    for spec in specs:
        expected = times.expected(spec, found)
        directory = RunDirectory(folder / spec.run_id)
        if expected is not None and directory.is_waiting:
            write_expected(directory, expected)
