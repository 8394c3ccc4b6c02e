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
from ftlab.runs.spec import EVALUATION_BATCH, SweepRequest
from ftlab.tasks.encoding import encode
from ftlab.tasks.formatting import FormattedExample
from ftlab.tasks.order import BatchSize, longest_batch, training_order
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import MAX_NEW_TOKENS
from ftlab.ui.experiment.task_data import data_stamp, formatter_of, load_data

_KEPT = 4


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
    stamp = data_stamp(request.task)
    examples = _formatted(request.model, request.task, stamp, settings.max_length)
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
    _, _, data = load_data(request.task)
    rows = min(EVALUATION_BATCH, settings.eval_examples)
    bundled = request.task.kind == "bundled"
    new_tokens = TASKS[request.task.id].max_new_tokens if bundled else MAX_NEW_TOKENS
    if formatter_of(request.model) is None:
        return Scoring(rows, settings.max_length, new_tokens)
    measured = data.tuning if settings.eval_split == "tuning" else data.held_out
    examples = _formatted(
        request.model, request.task, data_stamp(request.task), settings.max_length,
        settings.eval_split,
    )[: min(settings.eval_examples, len(measured))]  # fmt: skip
    return Scoring(rows, max(len(one.prompt_ids) for one in examples), new_tokens)


@lru_cache(maxsize=_KEPT)
def _formatted(
    model: str, task: TaskReference, stamp: str, max_length: int, split: str = "training"
) -> tuple[FormattedExample, ...]:
    """The examples of a split in tokens; read anew where the data's `stamp` is another one."""
    formatter = formatter_of(model)
    assert formatter is not None
    _, _, data = load_data(task)
    examples = {"training": data.train, "tuning": data.tuning, "held_out": data.held_out}[split]
    return encode(formatter, examples, max_length, split).formatted
