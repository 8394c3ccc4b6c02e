"""One rank of a test, started by `trained`: trains several methods and prints what ranks share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftlab.jobs.ranks import loopback

STEPS = 20
SETTINGS: dict[str, dict[str, Any]] = {
    "": {},
    "accumulated": {"accumulation": 2},
    "by parts": {},
    "bf16": {},
}
"""Names of ways to train, each with its settings."""


def trained(count: int, model: Path, *variants: str) -> dict[str, Any]:
    """What the first of `count` ranks prints; variants may name a way, as in "lora/accumulated"."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.training.one_rank"]
        given = [str(count), str(Path(folder) / "file"), str(model), *variants]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), *given],
                env=os.environ | loopback(),
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                text=True,
            )
            for rank in range(count)
        ]
        try:
            said, errors = ranks[0].communicate(timeout=500)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    assert ranks[0].returncode == 0, errors[-3000:]
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def examples(vocabulary: int) -> list[Any]:
    """Of different lengths, so that ranks have different numbers of tokens."""
    from ftlab.tasks.formatting import FormattedExample

    draw = random.Random(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(count))

    return [
        FormattedExample("", "", ids(draw.randint(3, 12)), ids(draw.randint(1, 9)))
        for _ in range(40)
    ]


def mean_of_gradients(ranks: Any) -> list[float]:
    """The gradient of a divided weight whose rank r has the gradient r + 1 everywhere."""
    import torch
    from torch.distributed.fsdp import fully_shard

    layer = torch.nn.Linear(3, 5, bias=False)
    fully_shard(layer)
    (layer(torch.ones(1, 3)).sum() * (ranks.index + 1)).backward()
    gradient: Any = layer.weight.grad
    found: list[float] = gradient.full_tensor().flatten().tolist()
    return found


def main(arguments: list[str]) -> None:
    rank, count, file, folder, *variants = arguments
    import torch
    from transformers import set_seed

    from ftlab.methods.spec import RunPlan
    from ftlab.methods.variant import parse_variant
    from ftlab.models.loading import load_base_model
    from ftlab.models.resolve import resolve_model
    from ftlab.settings.training import DtypePolicy, TrainingSettings
    from ftlab.tasks.formatting import training_order
    from ftlab.training import step
    from ftlab.training.model import apply_method
    from ftlab.training.ranks import ONE_PROCESS, join, leave
    from ftlab.training.step import Arithmetic, OrderedExamples
    from ftlab.training.trainer import train, training_arguments

    torch.set_num_threads(1)
    device = torch.device("cpu")
    several = int(count) > 1
    ranks = join(int(rank), int(count), Path(file), device) if several else ONE_PROCESS
    found: dict[str, Any] = {"gradients": mean_of_gradients(ranks) if several else []}
    source = resolve_model(folder, say=lambda line: None)
    usual = step.LOGITS_AT_ONCE
    for text in variants:
        name, _, way = text.partition("/")
        variant = parse_variant(name)
        settings = TrainingSettings(steps=STEPS, batch_size=5, shard=int(count), **SETTINGS[way])
        policy: DtypePolicy = "bf16" if way == "bf16" else "fp32"
        arithmetic = Arithmetic(policy, device)
        # Some ranks, and not all, have more logits than are computed at once.
        step.LOGITS_AT_ONCE = 320 * 10 if way == "by parts" else usual
        set_seed(0)
        learns = not variant.spec.is_adapter
        base = load_base_model(source, policy, None, device, weights_learn=learns)
        model: Any = apply_method(
            base, variant, policy, settings.gradient_checkpointing, RunPlan(STEPS, folder)
        )
        if several:
            from ftlab.training.sharding import shard

            shard(model, device, ranks)
        formatted = examples(base.config.vocab_size)
        order = training_order(
            [one.length for one in formatted], STEPS, 5 * settings.accumulation, 0
        )
        with tempfile.TemporaryDirectory() as output:
            _, meter = train(
                model,
                variant,
                OrderedExamples(formatted, order),
                training_arguments(settings, 1e-3, 0, arithmetic, Path(output)),
                arithmetic,
                lambda rows: ranks.collate(rows, 0),
                lambda event: None,
                ranks=ranks,
            )
        held = sum(
            (weight.to_local() if several else weight).numel() for weight in model.parameters()
        )
        found[text] = {"losses": meter.losses, "tokens": meter.tokens, "held": held}
    if several:
        leave()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
