"""Fills the three sets of a bundled task from a function that makes one example."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from ftlab.tasks.spec import Example, TaskData

Split = Literal["train", "tuning", "held_out"]

SIZES: dict[Split, int] = {"train": 2_400, "tuning": 200, "held_out": 200}


def collect(seed: int, task_id: str, make: Callable[[random.Random, Split], Example]) -> TaskData:
    """Training, tuning and held-out examples of the sizes above, no prompt twice.

    `make(rng, split)` makes one example. Each split has its own generator, seeded with a text:
    `random.Random` hashes a text by SHA-512, which no PYTHONHASHSEED changes.
    """
    seen: set[object] = set()
    sets: dict[Split, list[Example]] = {}
    for split, size in SIZES.items():
        rng = random.Random(f"{task_id}/{split}/{seed}")
        examples: list[Example] = []
        while len(examples) < size:
            example = make(rng, split)
            if example.prompt not in seen:
                seen.add(example.prompt)
                examples.append(example)
        sets[split] = examples
    return TaskData(tuple(sets["train"]), tuple(sets["tuning"]), tuple(sets["held_out"]))
