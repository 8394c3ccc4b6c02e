"""Answers one question: builds the model, simulates the step, counts; failures give a reason."""

from __future__ import annotations

import gc
import time
import traceback
from dataclasses import replace
from typing import Any

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from ftlab.basics.errors import FtlabError, one_line
from ftlab.prediction.closed_form import dimensions, memory_breakdown, reserved
from ftlab.prediction.question import Prediction, Question
from ftlab.prediction.simulation.fake import read_config
from ftlab.prediction.simulation.step import Sizes, build, count, simulate


def predict(question: Question) -> Prediction:
    """Predicts the memory of the method on the model; raises nothing but `MemoryError`.

    If the step cannot be simulated, parameters and file size are still counted.
    """
    gc.disable()  # so that tensors are freed only by reference counting, at defined times
    try:
        return answer(question)
    finally:
        gc.enable()
        gc.collect()


def answer(question: Question) -> Prediction:
    """Same as `predict`, for a process with garbage collection disabled."""
    began = time.perf_counter()
    variant = question.variant
    known = Prediction(variant.method, variant.label)
    try:
        known = _predict(question, known)
    except FtlabError as error:
        known = replace(known, reason=str(error))
    except Exception as error:
        _raise_if_out_of_memory(error)
        traceback.print_exc()
        known = replace(known, reason=f"It cannot be built: {one_line(error)[:200].rstrip('.')}.")
    return replace(known, seconds=round(time.perf_counter() - began, 2))


def _predict(question: Question, known: Prediction) -> Prediction:
    step, variant = question.step, question.variant
    config = read_config(question.config)
    check_length(config, step.length)
    model = build(config, variant, step)
    try:
        simulated = simulate(model, variant, step)
    except Exception as error:
        _raise_if_out_of_memory(error)
        traceback.print_exc()
        known = _with_sizes(known, count(build(config, variant, step), variant, step))
        return _in_closed_form(question, replace(known, reason=_not_simulated(error)))
    return replace(
        _with_sizes(known, simulated.sizes),
        peak_allocated_bytes=simulated.allocated,
        peak_reserved_bytes=simulated.reserved,
        anatomy={str(part): size for part, size in simulated.live.anatomy.items()},
        scoring_bytes=simulated.scoring,
        how="simulated",
    )


def _with_sizes(known: Prediction, sizes: Sizes) -> Prediction:
    return replace(
        known,
        trainable_params=sizes.trainable,
        total_params=sizes.total,
        adapter_bytes=sizes.file_bytes,
    )


def _in_closed_form(question: Question, known: Prediction) -> Prediction:
    """Adds the memory from formulas, if they apply to the model."""
    size = dimensions(question.config)
    if size is None or known.trainable_params is None or known.total_params is None:
        return known
    parts = memory_breakdown(
        size, question.variant, question.step, known.trainable_params, known.total_params
    )
    return replace(
        known,
        peak_allocated_bytes=sum(parts.values()),
        peak_reserved_bytes=reserved(parts),
        anatomy=parts,
        how="closed form",
    )


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raises `MemoryError`; some libraries report it only in the message of another error."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        raise MemoryError from error


def _not_simulated(error: Exception) -> str:
    what = one_line(error)[:160].rstrip(".")
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        what = "what it computes depends on values, as the routing of a mixture of experts does"
    return f"Its memory cannot be simulated: {what}."


def check_length(config: Any, length: int) -> None:
    """Raises `FtlabError` if the length is above the model's number of positions."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        raise FtlabError(
            f"The length of {length:,} tokens is above the model's {most:,} positions; "
            f"choose {most:,} or less."
        )
