"""The bundled model on SQL, trained in this process by the app's own parts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import ResolvedModel, resolve_model
from ftlab.settings.training import DtypePolicy, TrainingSettings
from ftlab.tasks.formatting import (
    FormattedExample,
    PromptFormatter,
    TransformersTokenizer,
    encode,
    training_order,
)
from ftlab.tasks.registry import TASKS, bundled_data
from ftlab.training.model import apply_method
from ftlab.training.step import Arithmetic, Batch, OrderedExamples, collate
from ftlab.training.trainer import StepMeter, train, training_arguments

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bundled:
    source: ResolvedModel
    tokenizer: Any
    examples: tuple[FormattedExample, ...]
    held_out: tuple[FormattedExample, ...]

    @classmethod
    def load(cls, held_out: int = 100, model: str = "bundled") -> Bundled:
        """With so many test examples; `model` is a folder to try with another one."""
        source = resolve_model(model)
        tokenizer = load_tokenizer(source)
        formatter = PromptFormatter(TransformersTokenizer(tokenizer))
        data = bundled_data(TASKS["sql"])
        return cls(
            source,
            tokenizer,
            encode(formatter, data.train, 256, "training").formatted,
            encode(formatter, data.held_out[:held_out], 256, "held-out").formatted,
        )

    def collate(self, examples: Sequence[FormattedExample]) -> Batch:
        return collate(examples, self.tokenizer.pad_token_id)

    def order(self, settings: TrainingSettings, seed: int) -> list[int]:
        """The order in which a run of these settings and this seed sees the examples."""
        return training_order(
            [example.length for example in self.examples],
            settings.steps,
            settings.batch_size * settings.accumulation,
            seed,
        )

    def model(self, method: str, policy: DtypePolicy, seed: int = 0) -> Any:
        """The bundled model ready to train; what is random in it comes from the seed."""
        spec = METHODS[method]
        base = load_base_model(
            self.source, policy, spec.base_precision, CPU, weights_learn=not spec.is_adapter
        )
        torch.manual_seed(seed)
        plan = RunPlan(steps=20, tokenizer=str(self.source.folder))
        return apply_method(base, Variant(method), policy, False, plan)

    def train(
        self,
        model: Any,
        method: str,
        arithmetic: Arithmetic,
        settings: TrainingSettings,
        order: Sequence[int],
        report: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> StepMeter:
        with tempfile.TemporaryDirectory() as scratch:
            return train(
                model,
                Variant(method),
                OrderedExamples(self.examples, order),
                training_arguments(
                    settings, METHODS[method].learning_rate, 0, arithmetic, Path(scratch)
                ),
                arithmetic,
                self.collate,
                report,
            )[1]
