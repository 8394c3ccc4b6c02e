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
    **settings: Any,
) -> tuple[Any, FairTrainer, StepMeter]:
    """The model, its trainer and what was measured, after steps of two examples each."""
    torch.manual_seed(0)
    given = {"steps": 4, "batch_size": 2, "warmup_steps": 0, "schedule": "constant"} | settings
    chosen = TrainingSettings(**given)
    named = parse_variant(variant)
    model = apply_method(
        AutoModelForCausalLM.from_pretrained(folder), named, "fp32", False,
        RunPlan(chosen.steps, str(folder)),
    )  # fmt: skip
    change(model)
    examples = examples_of(folder)
    order = [place % len(examples) for place in range(chosen.steps * chosen.batch_size)]
    trainer, meter = train(
        model,
        named,
        OrderedExamples(examples, order),
        training_arguments(chosen, 1e-2, 0, Arithmetic("fp32", CPU), scratch),
        Arithmetic("fp32", CPU),
        lambda items: collate(items, 0),
        report,
        before_steps=before_steps,
    )
    return model, trainer, meter
