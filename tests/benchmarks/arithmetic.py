"""What computing adapters in bf16 costs in quality: test loss against fp32, over seeds.

Run as: python -m tests.benchmarks.arithmetic [--method lora] [--seeds 0,1,2] [--steps N]
        [--held-out N] [--model FOLDER] [--json FILE]

Trains on SQL with the app's defaults in three arithmetics: bf16 over fp32 masters (the policy
"bf16"), PEFT's own (a bf16 base, but every adapter's input raised to fp32), and fp32 throughout.
Exits with status 1 if bf16's mean test loss differs from fp32's by more than the standard
deviation between fp32's seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from ftlab.models.libraries import prepare_for_libraries
from ftlab.settings.training import DtypePolicy, TrainingSettings
from ftlab.training.evaluate import held_out_loss
from ftlab.training.step import Arithmetic
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.bundled import CPU, Bundled


@dataclass(frozen=True)
class Way:
    """How a step computes: the base's weights as `weights` says, products as `products` does."""

    label: str
    weights: DtypePolicy
    products: DtypePolicy
    raises_inputs: bool = False


WAYS = (
    Way("bf16 over fp32 masters", "bf16", "bf16"),
    Way("PEFT's own: bf16 base, fp32 adapters", "bf16", "fp32", raises_inputs=True),
    Way("fp32", "fp32", "fp32"),
)


@dataclass(frozen=True)
class Outcome:
    way: str
    seed: int
    held_out_loss: float
    train_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--method", choices=("lora", "qlora", "prompt_tuning"), default="lora")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=TrainingSettings().steps)
    parser.add_argument("--held-out", type=int, default=100, help="examples that the loss is of")
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    bundled = Bundled.load(options.held_out, options.model)
    settings = TrainingSettings(steps=options.steps)
    outcomes = []
    for seed in map(int, options.seeds.split(",")):
        for way in WAYS:
            outcomes.append(measure(bundled, options.method, way, settings, seed))
            print(line(outcomes[-1]), flush=True)
    if options.json:
        write_figures(options.json, [asdict(outcome) for outcome in outcomes], rate)
    print()
    return 0 if verdict(outcomes) else 1


def measure(
    bundled: Bundled, method: str, way: Way, settings: TrainingSettings, seed: int
) -> Outcome:
    model = bundled.model(method, way.weights, seed)
    if way.raises_inputs:
        raise_inputs(model)
    arithmetic = Arithmetic(way.products, CPU)
    order = bundled.order(settings, seed)
    steps = bundled.train(model, method, arithmetic, settings, order)
    model.eval()
    with torch.inference_mode(), arithmetic.context():
        loss, _ = held_out_loss(
            model, bundled.held_out, bundled.tokenizer.pad_token_id, lambda done: None
        )
    return Outcome(way.label, seed, loss, steps.total_seconds)


def raise_inputs(model: Any) -> None:
    """Undoes what the policy "bf16" does to PEFT's layers."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = True


def line(outcome: Outcome) -> str:
    return (
        f"{outcome.way:37}  seed {outcome.seed}  test loss {outcome.held_out_loss:.4f}  "
        f"training {outcome.train_seconds:5.1f} s"
    )


def verdict(outcomes: Sequence[Outcome]) -> bool:
    """Prints each way's mean and spread; true if bf16 is within fp32's spread between seeds."""
    means, spreads = {}, {}
    for way in WAYS:
        losses = [outcome.held_out_loss for outcome in outcomes if outcome.way == way.label]
        seconds = [outcome.train_seconds for outcome in outcomes if outcome.way == way.label]
        means[way.label] = statistics.mean(losses)
        spreads[way.label] = statistics.stdev(losses) if len(losses) > 1 else 0.0
        print(
            f"{way.label:37}  mean {means[way.label]:.4f}  "
            f"standard deviation {spreads[way.label]:.4f}  "
            f"training {statistics.mean(seconds):5.1f} s"
        )
    ours, fp32 = WAYS[0].label, WAYS[-1].label
    difference = means[ours] - means[fp32]
    print(
        f"bf16 differs from fp32 by {difference:+.4f}; fp32's seeds differ by {spreads[fp32]:.4f}"
    )
    return abs(difference) <= spreads[fp32]


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
