"""Adds a prediction, and advice after out of memory, to the result of a run."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ftlab.basics.cards import CONTEXT_BYTES
from ftlab.basics.devices import free_bytes, resolve_device
from ftlab.basics.units import format_bytes
from ftlab.models.loading import give_back_memory
from ftlab.models.resolve import resolve_model
from ftlab.prediction.kept_predictions import keep_prediction, kept_prediction
from ftlab.prediction.machine_rates import keep_rates, kept_rates
from ftlab.prediction.measure_rates import measure_quietly
from ftlab.prediction.question import Prediction, Question, Step
from ftlab.prediction.remedies import counts_of, predicted_remedies, remedies, run_question
from ftlab.prediction.run_time import FORMULA, FORMULA_KEY, computed, run_size
from ftlab.prediction.simulation.step import predict
from ftlab.records.comparability import SCORED
from ftlab.records.result import RunResult
from ftlab.records.spec import RunSpec
from ftlab.tasks.formatting import BatchSize, Scoring
from ftlab.training.memory import CardMemory, card_memory
from ftlab.training.model import torch_device


def with_prediction(
    result: RunResult, spec: RunSpec, longest: BatchSize | None, scoring: Scoring | None
) -> RunResult:
    """Returns the result with the predicted peak of its longest batch; never raises.

    `scoring` is the batch in which its examples are scored; `None` without answers.

    Call it after all measurements: a prediction that is not kept yet takes seconds and memory, and
    patches torch.
    Without a batch, or if the prediction fails, the result is unchanged.
    """
    if longest is None or spec.variant is None:
        return result
    try:
        question = question_of(spec, longest, scoring)
        found = kept_prediction(question)
        if found is None:
            found = predict(question)
            keep_prediction(question, found)
        seconds = _seconds(result, spec, question.step, found)
    except Exception:  # the run does not need the prediction; its log has the reason
        traceback.print_exc()
        return result
    measures = replace(result.measures, predicted_net_peak_bytes=found.peak_allocated_bytes)
    return replace(
        result,
        measures=measures,
        predicted_anatomy=found.anatomy,
        predicted_seconds=seconds,
        environment=result.environment | {FORMULA_KEY: FORMULA},
    )


def _seconds(result: RunResult, spec: RunSpec, step: Step, found: Prediction) -> dict[str, float]:
    """Returns the computed seconds of the run's phases; empty for a run that did not end.

    The device's rates are measured here if they are not kept yet: nothing else runs on it now.
    """
    tokens, padding = result.measures.train_tokens, result.measures.padding_share
    if result.status != "done" or not tokens or padding is None:
        return {}
    device, settings = resolve_device(spec.device), spec.settings
    rates = kept_rates(device)
    if rates is None:
        rates = measure_quietly(torch_device(spec.device))
        keep_rates(device, rates)
    batches = settings.steps * settings.accumulation
    scored = int(result.environment.get(SCORED) or settings.eval_examples)
    size = run_size(settings, tokens / (1 - padding) / batches, scored)
    return computed(found, step, size, rates)


def with_remedies(
    result: RunResult, spec: RunSpec, phase: str, longest: BatchSize | None
) -> RunResult:
    """Adds the reason to an out-of-memory result: when, at what size, and what would fit.

    On a GPU the reason includes the memory used by other processes. Call it after the model is
    freed; never raises.
    """
    gc.collect()
    memory = _card_memory(spec)
    measures = result.measures
    where = f" in the {phase} phase" if phase else ""
    if phase == "train" and measures.steps_done is not None:
        where += f", in step {measures.steps_done + 1} of {spec.settings.steps}"
    peak = result.phases[phase].peak_bytes if phase in result.phases else None
    size = f" after a peak of {format_bytes(peak)} ({result.memory_kind})" if peak else ""
    limit = f"; the limit is {format_bytes(spec.memory_limit)}" if spec.memory_limit else ""
    advice = ""
    if phase == "train" and longest is not None:
        try:
            advice = _predicted(spec, longest, measures.before_model_bytes, memory)
        except Exception:  # `remedies` need no prediction
            traceback.print_exc()
    advice = advice or remedies(spec, phase)
    others = f" {memory.sentence}" if memory is not None and memory.sentence else ""
    kept = _KEPT if phase == "evaluate" and spec.variant is not None else ""
    return replace(result, reason=f"Out of memory{where}{size}{limit}.{others} {advice}{kept}")


_KEPT = " The trained weights were saved before, and can be exported."


def _card_memory(spec: RunSpec) -> CardMemory | None:
    """Returns the memory of the run's GPU after emptying torch's cache; `None` without CUDA."""
    if not resolve_device(spec.device).is_cuda:
        return None
    try:
        give_back_memory(torch.device("cuda", 0))
        return card_memory(torch.device("cuda", 0))
    except Exception:  # the device failed; the run's own error is more useful
        traceback.print_exc()
        return None


def _predicted(
    spec: RunSpec, longest: BatchSize, before_model: int | None, memory: CardMemory | None
) -> str:
    device = resolve_device(spec.device)
    if device.is_gpu:
        room = device.memory_bytes - CONTEXT_BYTES if memory is None else memory.room
        room = min(room, spec.memory_limit) if spec.memory_limit else room
    elif spec.memory_limit:
        room = spec.memory_limit - (before_model or 0)
    else:
        room = free_bytes(device) or 0
    return predicted_remedies(question_of(spec, longest), room, _ask, counts_of(spec))


def question_of(spec: RunSpec, longest: BatchSize, scoring: Scoring | None = None) -> Question:
    """Returns the question to the predictor for the run's longest batch, and how it is scored.

    It is the one that was asked before the launch (`ftlab.jobs.sweep_costs.costing`).
    """
    assert spec.variant is not None
    config = resolve_model(spec.model).config()
    return run_question(
        config,
        spec.variant,
        spec.settings,
        spec.dtype_policy,
        longest,
        resolve_device(spec.device),
        scoring,
    )


def _ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
    """Answers in this process, which has freed its memory."""
    for place, question in enumerate(questions):
        yield place, predict(question)
