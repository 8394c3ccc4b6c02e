"""A few steps of a method on the tiny model, as a run takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import parse_variant
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.model import apply_method
from ftlab.training.step import Arithmetic, OrderedExamples, collate
from ftlab.training.trainer import FairTrainer, StepMeter, train, training_arguments

CPU = torch.device("cpu")
FP32 = Arithmetic("fp32", CPU)
TEXTS = [("a", "yes"), ("what is it", "no"), ("longer question", "perhaps"), ("b", "x")]


def examples_of(folder: Path) -> list[FormattedExample]:
    formatter = PromptFormatter(FileTokenizer(folder))
    return [formatter.format(Example((Message("user", q),), a)) for q, a in TEXTS * 2]


def take_steps(
    folder: Path,
    scratch: Path,
    variant: str = "lora",
    before_steps: Callable[[FairTrainer], None] = lambda trainer: None,
    change: Callable[[Any], None] = lambda model: None,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    rate: float = 1e-2,
    meter: StepMeter | None = None,
    after_step: Callable[[int], None] = lambda step: None,
    planned: int | None = None,
    **settings: Any,
) -> tuple[Any, FairTrainer, StepMeter]:
    """The model, its trainer and what was measured, after steps of two examples each in fp32.

    `planned` are the steps that the method is told, if they are not those that are done.
    """
    torch.manual_seed(0)
    given = {"steps": 4, "batch_size": 2, "warmup_steps": 0, "schedule": "constant"} | settings
    chosen = TrainingSettings(**given)
    named = parse_variant(variant)
    model = apply_method(
        AutoModelForCausalLM.from_pretrained(folder), named, "fp32", False,
        RunPlan(planned or chosen.steps, str(folder)),
    )  # fmt: skip
    change(model)
    examples = examples_of(folder)
    count = chosen.steps * chosen.batch_size * chosen.accumulation
    order = [place % len(examples) for place in range(count)]
    trainer, meter = train(
        model,
        named,
        OrderedExamples(examples, order),
        training_arguments(chosen, rate, 0, FP32, scratch),
        FP32,
        lambda items: collate(items, 0),
        report,
        meter=meter,
        before_steps=before_steps,
        after_step=after_step,
    )
    return model, trainer, meter
