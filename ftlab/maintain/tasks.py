"""Makes the example files of the bundled tasks again, from the generators beside this module.

Run as: python -m ftlab.maintain.tasks FOLDER

Writes one file per task and prints its SHA-256, which the task's spec must contain. The shipped
files, `assets/tasks/<id>.jsonl`, use seed 0. A changed file is a new task: its results cannot be
compared with earlier ones, and the shipped recordings and adapters must be made again. Held-out
examples may be added at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ftlab.maintain import medical_examples, shakespeare_examples, sql_examples
from ftlab.tasks.spec import Example, Split

SIZES: dict[Split, int] = {"train": 2_400, "tuning": 200, "held_out": 1_000}

GENERATORS: dict[str, Callable[[random.Random, Split], Example]] = {
    "sql": sql_examples.make,
    "shakespeare": shakespeare_examples.make,
    "medical": medical_examples.make,
}
"""By task id: a function that makes one example of a split from a random generator."""


def example_file(task_id: str, seed: int = 0) -> bytes:
    """Returns the content of a task's file: one JSON object per line, with unique prompts."""
    rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(task_id, seed))
    return "".join(rows).encode()


def _rows(task_id: str, seed: int) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for split, size in SIZES.items():
        # `random.Random` hashes a string with SHA-512, independent of PYTHONHASHSEED.
        rng = random.Random(f"{task_id}/{split}/{seed}")
        made = 0
        while made < size:
            example = GENERATORS[task_id](rng, split)
            if example.question in seen:
                continue
            seen.add(example.question)
            made += 1
            extra = {"extra": example.extra} if example.extra else {}
            yield {
                "split": split,
                "prompt": example.question,
                "completion": example.completion,
                **extra,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write the files")
    parser.add_argument("--seed", type=int, default=0, help="0, the seed of the shipped files")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for task_id in GENERATORS:
        data = example_file(task_id, options.seed)
        (options.folder / f"{task_id}.jsonl").write_bytes(data)
        print(f"{task_id}: {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
