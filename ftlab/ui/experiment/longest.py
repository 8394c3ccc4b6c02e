"""The longest batch of a sweep, before anything runs: from its own examples, order and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.prediction.question import Scoring
from ftlab.prediction.source import find_config
from ftlab.runs.scored import Scored, measured_split, scored_of
from ftlab.runs.spec import SweepRequest
from ftlab.settings.training import EVAL_SPLITS, EVALUATION_BATCH
from ftlab.tasks.formatting import EncodedSet, FormattedExample, fitting
from ftlab.tasks.order import BatchSize, longest_batch, training_order
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import MAX_NEW_TOKENS
from ftlab.ui.experiment.task_data import data_stamp, formatter_of, load_data

_KEPT = 6


@dataclass(frozen=True)
class Longest:
    """`is_known`: counted in the model's tokens; else every example is taken for the longest that
    the settings let through."""

    batch: BatchSize
    is_known: bool


def model_config(model: str) -> Mapping[str, Any]:
    """The config.json of a model on this machine, or of one that the catalogue knows.

    Raises `FtlabError` if it is neither.
    """
    reference = parse_model(model)
    folder = local_folder(reference)
    return find_config(model if folder is None else str(folder)).config


def longest_of(request: SweepRequest) -> Longest:
    """The largest of all seeds' longest batches.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    settings = request.settings
    if formatter_of(request.model) is None:
        rows = settings.batch_size
        most = BatchSize(rows, settings.max_length, rows * max(1, settings.max_length - 1))
        return Longest(most, is_known=False)
    examples = _training(request).formatted
    step_size = settings.batch_size * settings.accumulation
    lengths = [example.length for example in examples]
    found = [
        longest_batch(
            examples,
            training_order(lengths, settings.steps, step_size, seed),
            settings.batch_size,
        )[0]
        for seed in request.seeds
    ]
    return Longest(max(found, key=lambda one: (one.length, one.completion_tokens)), is_known=True)


def scoring_of(request: SweepRequest) -> Scoring | None:
    """The answers that the sweep's runs score at once; `None` where they answer nothing.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    settings = request.settings
    if not settings.eval_answers:
        return None
    bundled = request.task.kind == "bundled"
    new_tokens = TASKS[request.task.id].max_new_tokens if bundled else MAX_NEW_TOKENS
    if formatter_of(request.model) is None:
        rows = min(EVALUATION_BATCH, scored_now(request).count)
        return Scoring(rows, settings.max_length, new_tokens)
    examples = _measured(request).formatted
    rows = min(EVALUATION_BATCH, len(examples))
    return Scoring(rows, max(len(one.prompt_ids) for one in examples), new_tokens)


def scored_now(request: SweepRequest) -> Scored:
    """How many examples the sweep will score, counted in the model's tokens where it is here.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    _, _, data = load_data(request.task)
    if formatter_of(request.model) is None:
        return scored_of(request, data)
    return scored_of(request, data, _measured(request).dropped)


def check_training_fits(request: SweepRequest) -> None:
    """Raises `TooLong` if none is short enough, counted where the model is on this machine."""
    if formatter_of(request.model) is not None:
        _training(request)


def _training(request: SweepRequest) -> EncodedSet:
    _, _, data = load_data(request.task)
    formatted = _formatted(request.model, request.task, data_stamp(request.task), "training")
    return fitting(data.train, formatted, request.settings.max_length, "training")


def _measured(request: SweepRequest) -> EncodedSet:
    """The examples that are scored: the first of their split, without those that are too long."""
    _, _, data = load_data(request.task)
    settings = request.settings
    wanted = measured_split(data, settings)[: settings.eval_examples]
    stamp = data_stamp(request.task)
    formatted = _formatted(request.model, request.task, stamp, settings.eval_split)[: len(wanted)]
    return fitting(wanted, formatted, settings.max_length, EVAL_SPLITS[settings.eval_split])


@lru_cache(maxsize=_KEPT)
def _formatted(
    model: str, task: TaskReference, stamp: str, split: str
) -> tuple[FormattedExample, ...]:
    """All examples of a split in tokens; read anew where the data's `stamp` is another one."""
    formatter = formatter_of(model)
    assert formatter is not None
    _, _, data = load_data(task)
    examples = {"training": data.train, "tuning": data.tuning, "held_out": data.held_out}[split]
    return tuple(formatter.format(example) for example in examples)
