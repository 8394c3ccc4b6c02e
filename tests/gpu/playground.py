"""Checks on a machine with a GPU: all methods answer on one base, and memory comes back.

Run as: python -m tests.gpu.playground [--device cuda|cpu] [--json FILE]

Needs no network and no real weights (see `tests.gpu.check`). Each method is trained for two steps;
then the engine holds the base in 16, 32 and 4 bits and answers in all panes. Ends with status 1 if
a pane fails or memory stays behind. How many texts are the same alone is only reported: random
weights are nearly undecided between tokens (gaps of 4e-5 in a logit on a CPU, rounding 1e-6).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftlab.methods.registry import CORE
from ftlab.methods.variant import Variant
from ftlab.playground.engine import Engine
from ftlab.playground.panes import BASE
from ftlab.playground.protocol import PRECISIONS, GenerateRequest, PaneUpdate, Precision
from ftlab.runs.directory import RunDirectory
from ftlab.runs.spec import SweepRequest, TrainingSettings
from ftlab.runs.sweep import plan_sweep
from ftlab.tasks.reference import parse_task
from ftlab.training.run import RunRecord, execute
from tests.gpu.check import make_random_model

LEFT_BYTES = 64 << 20
"""What torch may keep after everything was let go: workspaces of its libraries."""


def train(method: str, model: Path, folder: Path, device: str) -> str:
    request = SweepRequest(
        model=str(model),
        task=parse_task("sql"),
        variants=(Variant(method),),
        settings=TrainingSettings(steps=2, batch_size=2, eval_examples=2, max_length=512),
        device=device,
    )
    spec = plan_sweep(request)[-1]
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    record = RunRecord()
    execute(spec, directory, record, lambda event: None)
    directory.write_result(record.result("done"))
    return spec.run_id


def answer(engine: Engine, panes: Sequence[str], precision: Precision) -> list[PaneUpdate]:
    finals: dict[int, PaneUpdate] = {}

    def send(update: PaneUpdate) -> None:
        if update.is_final:
            finals[update.pane] = update

    request = GenerateRequest(
        tuple(panes), "Table t(a, b). How many rows?", precision=precision, max_new_tokens=64
    )
    engine.answer(request, send, lambda: None)
    return [finals[pane] for pane in range(len(panes))]


def check(
    precision: Precision, engine: Engine, panes: dict[str, str], model: Path
) -> tuple[dict[str, Any], list[str]]:
    """What was measured under one precision of the base, and what is wrong."""
    began = time.perf_counter()
    engine.load(str(model), precision)
    loaded = time.perf_counter() - began
    base_bytes = allocated()
    names = [BASE, *panes.values()]
    first = answer(engine, names, precision)
    began = time.perf_counter()
    together = answer(engine, names, precision)
    seconds = time.perf_counter() - began
    wrong = [f"{u.pane} in {precision}: {u.text}" for u in together if u.kind == "error"]
    same = [
        answer(engine, [name], precision)[0].text == update.text
        for name, update in zip(names, together, strict=True)
    ]
    row = {
        "precision": precision,
        "load_seconds": round(loaded, 3),
        "swap_seconds": {n: u.swap_seconds for n, u in zip(names, first, strict=True)},
        "base_bytes": base_bytes,
        "all_panes_bytes": allocated(),
        "answer_seconds": round(seconds, 3),
        "same_text_alone": f"{sum(same)} of {len(same)}",
        "tokens_per_second": [u.tokens_per_second for u in together],
        "first_token_seconds": [u.first_token_seconds for u in together],
    }
    engine.unload()
    if allocated() > LEFT_BYTES:
        wrong.append(f"{allocated()} bytes stayed behind in {precision}")
    return row, wrong


def allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is usable by torch here", file=sys.stderr)
        return 2
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        model = make_random_model(Path(scratch) / "model")
        device = "cuda:0" if options.device == "cuda" else "cpu"
        panes = {method: train(method, model, runs, device) for method in CORE}
        engine = Engine(runs, torch.device(device))
        for precision in PRECISIONS:
            row, problems = check(precision, engine, panes, model)
            print(json.dumps(row), flush=True)
            rows.append(row)
            wrong += problems
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print("\n".join(wrong) or "all checks passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
