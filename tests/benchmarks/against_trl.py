"""Time and memory of ftlab's training against TRL's `SFTTrainer`, on the same examples.

Run as: python -m tests.benchmarks.against_trl [--json FILE] [--repeats N] [--steps N]
        [--methods full,lora,qlora,prompt_tuning] [--sides ftlab,trl] [--model FOLDER]

Both sides train the bundled model in fresh processes, turn about, on the same SQL examples: batch
8, bf16 weights, the same adapters and quantisation, the loss on the completion alone, and no
gradient checkpointing. ftlab's side is the app's own worker and its own measures; its seconds are
those of the whole training phase. Most matrix products are the same on both sides, so on a machine
that multiplies more slowly the two are nearer to each other: that rate is printed with the figures.
Exits with status 1 when a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftlab.basics import units
from ftlab.basics.processes import python_environment
from ftlab.methods.registry import METHODS
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.formatting import (
    FileTokenizer,
    FormattedExample,
    PromptFormatter,
    encode,
    training_order,
)
from ftlab.tasks.reference import load as load_task
from ftlab.tasks.reference import parse_task
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.worker import run_worker

SIDES = ("ftlab", "trl")
BATCH_SIZE = 8
SETTLED_WARMUP = 2
LOSS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Limits:
    """The most that ftlab may take, as a share of what TRL takes."""

    seconds: float
    net_peak: float


LIMITS = {
    "full": Limits(seconds=0.50, net_peak=0.75),
    "lora": Limits(seconds=0.50, net_peak=0.75),
    "qlora": Limits(seconds=0.55, net_peak=0.75),
    "prompt_tuning": Limits(seconds=0.55, net_peak=0.85),
}


@dataclass(frozen=True)
class Timing:
    """One side's run. Losses are means over the completion tokens of a batch, in nats."""

    side: str
    method: str
    seconds: float
    peak_rss_bytes: int
    net_peak_bytes: int
    first_loss: float
    last_loss: float
    trainable_params: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--methods", type=names_of(LIMITS), default=tuple(LIMITS))
    parser.add_argument("--sides", type=names_of(SIDES), default=SIDES)
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    parser.add_argument(
        "--trl-without-autocast",
        action="store_true",
        help="TRL's bf16=False; its default is True",
    )
    options = parser.parse_args(arguments)
    model = resolve_model(options.model, print)
    rate = product_rate()
    settings = TrainingSettings(
        steps=options.steps, batch_size=BATCH_SIZE, warmup_steps=SETTLED_WARMUP, eval_examples=1
    )
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            for method in options.methods:
                for side in options.sides[:: 1 if repeat % 2 == 0 else -1]:
                    place = Path(folder) / f"{repeat}-{method}-{side}"
                    if side == "ftlab":
                        timing = run_ftlab(method, settings, place, model.reference.name)
                    else:
                        autocast = not options.trl_without_autocast
                        timing = run_trl(method, settings, place, model.folder, autocast)
                    print(line(timing), flush=True)
                    timings.append(timing)
    if options.json:
        write_figures(options.json, [asdict(timing) for timing in timings], rate)
    print(f"\n{rate}")
    return 0 if verdict(timings) else 1


def names_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads names that commas part, for argparse."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"'{min(unknown)}' is none of: {', '.join(known)}")
        return names

    return read


def run_ftlab(method: str, settings: TrainingSettings, place: Path, model: str) -> Timing:
    """The app's own worker on the app's own run directory."""
    result = run_worker(method, settings, place, model=model)
    measures = result.measures
    assert measures.before_model_bytes is not None
    assert measures.train_loss_first is not None
    assert measures.train_loss_last is not None
    assert measures.trainable_params is not None
    peak = max(result.phases[phase].peak_bytes or 0 for phase in ("load", "train"))
    return Timing(
        side="ftlab",
        method=method,
        seconds=result.phases["train"].seconds,
        peak_rss_bytes=peak,
        net_peak_bytes=peak - measures.before_model_bytes,
        first_loss=measures.train_loss_first,
        last_loss=measures.train_loss_last,
        trainable_params=measures.trainable_params,
    )


def run_trl(
    method: str, settings: TrainingSettings, place: Path, model: Path, autocast: bool
) -> Timing:
    place.mkdir(parents=True)
    job = place / "job.json"
    job.write_text(json.dumps(job_for_trl(method, settings, model, autocast)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.trl_side", str(job)],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"TRL failed:\n{done.stderr[-4000:]}")
    return Timing(side="trl", method=method, **json.loads(done.stdout.splitlines()[-1]))


def job_for_trl(
    method: str, settings: TrainingSettings, model: Path, autocast: bool
) -> dict[str, Any]:
    """What `trl_side` is told, as JSON."""
    return {
        "method": method,
        "model": str(model),
        "rows": rows_for_trl(settings, model),
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "warmup_steps": settings.warmup_steps,
        "learning_rate": METHODS[method].learning_rate,
        "autocast": autocast,
    }


def rows_for_trl(settings: TrainingSettings, model: Path) -> list[dict[str, str]]:
    """The examples that ftlab trains on, as prompt and completion.

    The first batch is ftlab's, so that the first losses can be compared; the others come in random
    order, as TRL draws them by default.
    """
    _, data = load_task(parse_task("sql"))
    formatter = PromptFormatter(FileTokenizer(model))
    formatted = encode(formatter, data.train, settings.max_length, "training").formatted
    lengths = [example.length for example in formatted]
    order = training_order(lengths, settings.steps, settings.batch_size, seed=0)
    first, rest = order[: settings.batch_size], order[settings.batch_size :]
    random.Random(0).shuffle(rest)
    return [as_row(formatted[index]) for index in [*first, *rest]]


def as_row(example: FormattedExample) -> dict[str, str]:
    return {"prompt": example.prompt_text, "completion": example.completion_text}


def line(timing: Timing) -> str:
    return (
        f"{timing.side:5}  {timing.method:13}  {timing.seconds:6.1f} s  "
        f"peak {units.format_bytes(timing.peak_rss_bytes):>8}  "
        f"net {units.format_bytes(timing.net_peak_bytes):>8}  "
        f"loss {timing.first_loss:.4f} -> {timing.last_loss:.4f}"
    )


def verdict(timings: Sequence[Timing]) -> bool:
    """Prints the ratios of the medians beside their limits; true if all are kept."""
    kept = True
    for method, limits in LIMITS.items():
        ours, theirs = ([t for t in timings if (t.side, t.method) == (s, method)] for s in SIDES)
        if not (ours and theirs):
            continue

        def ratio(name: str, ours: Any = ours, theirs: Any = theirs) -> float:
            return median(ours, name) / median(theirs, name)

        seconds, net_peak = ratio("seconds"), ratio("net_peak_bytes")
        loss = abs(ratio("first_loss") - 1)
        trained = [side[0].trainable_params for side in (ours, theirs)]
        checks = [
            (f"time {seconds:.2f}x of {limits.seconds:.2f}x", seconds <= limits.seconds),
            (f"net peak {net_peak:.2f}x of {limits.net_peak:.2f}x", net_peak <= limits.net_peak),
            (f"first loss off by {loss:.2%}", loss <= LOSS_TOLERANCE),
            (f"trains {trained[0]:,} parameters, TRL {trained[1]:,}", trained[0] == trained[1]),
        ]
        texts = [text if good else f"{text} MISSED" for text, good in checks]
        print(f"{method:13}  " + ";  ".join(texts))
        kept = kept and all(good for _, good in checks)
    return kept


def median(timings: Sequence[Timing], name: str) -> float:
    return statistics.median(getattr(timing, name) for timing in timings)


if __name__ == "__main__":
    sys.exit(main())
