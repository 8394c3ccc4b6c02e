"""Scores examples with the ftlab of one checkout, in a process of its own.

Run as: python tests/benchmarks/scoring_side.py JOB.json   (made by tests.benchmarks.scoring, with
the checkout in PYTHONPATH). The job holds the examples as token ids, so that both sides score the
same ones; a module that was moved since commit 5a5ce30 is looked for under both names.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel

from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.tasks.formatting import FormattedExample
from ftlab.training.meters import memory_meter

CPU = torch.device("cpu")


def moved(name: str, other: str) -> Any:
    """The module under the one name, or else under the other."""
    return import_module(name if find_spec(name) else other)


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    encoded_set = moved("ftlab.tasks.encoding", "ftlab.tasks.formatting").EncodedSet
    step = moved("ftlab.training.step", "ftlab.training.arithmetic")
    evaluate = moved("ftlab.training.evaluate", "ftlab.training.evaluation").evaluate
    torch.set_num_threads(job["threads"])

    def formatted(pairs: Any) -> tuple[FormattedExample, ...]:
        return tuple(FormattedExample("", "", tuple(a), tuple(b)) for a, b in pairs)

    examples = formatted(job["examples"])
    held_out = encoded_set((None,) * len(examples), examples, 0)
    passages = formatted(job["passages"])
    unscored = SimpleNamespace(score_each=lambda some, answers: [0.0] * len(answers))
    task = SimpleNamespace(max_new_tokens=job["max_new_tokens"], metric=unscored)
    source = resolve_model(job["model"])
    tokenizer = load_tokenizer(source)
    meter = memory_meter(CPU)
    before = meter.start()
    model: Any = load_base_model(source, job["policy"], job["precision"], CPU)
    if job["adapter"]:
        model = PeftModel.from_pretrained(model, job["adapter"])
        step.compute_adapters_in_low_precision(model)
    arithmetic = step.Arithmetic(job["policy"], CPU)

    def score(**options: Any) -> tuple[float, float, Any]:
        wall, used = time.perf_counter(), time.process_time()
        found = evaluate(
            model, tokenizer, held_out, task, job["stop_ids"], arithmetic,
            lambda done, total: None, **options,
        )  # fmt: skip
        return time.perf_counter() - wall, time.process_time() - used, found

    meter.start()
    whole = score(passages=passages)
    peak = meter.read().peak
    loss = score(with_answers=False)
    with_passages = score(with_answers=False, passages=passages)
    seconds = {
        name: {
            "loss": loss[clock],
            "passages": with_passages[clock] - loss[clock],
            "answers": whole[clock] - with_passages[clock],
            "all": whole[clock],
        }
        for clock, name in enumerate(("wall", "processor"))
    }
    facts = {
        "seconds": seconds,
        "net_peak_bytes": peak - before if peak and before else None,
        "losses": whole[2].losses,
        "answers": whole[2].answers,
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
