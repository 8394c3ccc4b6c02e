"""From a run's settings and its longest batch to what is asked of the predictor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftlab.devices import Device
from ftlab.methods.variant import Variant
from ftlab.prediction.question import USUAL_CAPABILITY, Question, Scoring, Step
from ftlab.prediction.questions import ask_about
from ftlab.settings.training import DtypePolicy, TrainingSettings
from ftlab.tasks.order import BatchSize


def run_question(
    config: Mapping[str, Any],
    variant: Variant,
    settings: TrainingSettings,
    policy: DtypePolicy,
    longest: BatchSize,
    device: Device,
    scoring: Scoring | None = None,
) -> Question:
    """What a run of those settings takes on the device, in its longest batch and while it scores.

    Raises `InvalidRequest` where the settings make no sense.
    """
    step = Step(
        length=longest.length,
        batch=longest.rows,
        completion_tokens=math.ceil(longest.completion_tokens / longest.rows),
        weights="bf16" if policy == "bf16" else "fp32",
        mixed=policy == "mixed",
        checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
        accumulation=settings.accumulation,
        device="cuda" if device.is_gpu else "cpu",
        capability=device.capability or USUAL_CAPABILITY,
        scoring=scoring,
    )
    (question,) = ask_about(config, [variant], step)
    return question
