"""Where the time of a training step goes, by torch.profiler.

Run as: python -m tests.benchmarks.profile_step METHOD [--policy bf16] [--steps N] [--shapes]
        [--model FOLDER]

Trains the bundled model on SQL, batch 8, and prints the operators that take most of the CPU (the
first two steps, which warm up, and the last left out), what each part of a step takes, and the
seconds of every step.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from ftlab.methods.registry import METHODS
from ftlab.models.libraries import prepare_for_libraries
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.training.step import Arithmetic
from tests.benchmarks.product_rate import product_rate
from tests.bundled import CPU, Bundled

WARM = 2
LEAST_STEPS = WARM + 2

PARTS = {
    "products of the layers and the output": r"mm|addmm",
    "products of attention": r"bmm|baddbmm",
    "softmax": r"_(log_)?softmax(_backward_data)?",
    "activation functions": r"(silu|gelu|tanh|sigmoid)(_backward)?",
    "sums, products and means of elements": r"(add|sub|mul|div|pow|rsqrt|mean|sum|neg|addcmul)_?",
    "copies, conversions and fills": r"copy_|_to_copy|clone|cat|fill_|zero_|contiguous",
    "AdamW and the norm of the gradient": r"_fused_adamw_|linalg_vector_norm|_foreach_\w+",
    "unpacking 4-bit weights": r"(de)?quantize_(4bit|blockwise)|gemm_4bit",
}
"""What a step is made of: the names of each part's operators, as a pattern."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--policy", choices=DTYPE_POLICIES, default="bf16")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=25)
    parser.add_argument("--shapes", action="store_true", help="tell inputs of other shapes apart")
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    options = parser.parse_args(arguments)
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps is {options.steps}; at least {LEAST_STEPS} leave one to look at")
    print(product_rate(), flush=True)
    bundled = Bundled.load(model=options.model)
    settings = TrainingSettings(steps=options.steps, batch_size=8)
    model = bundled.model(options.method, options.policy)
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=torch.profiler.schedule(wait=0, warmup=WARM, active=options.steps - WARM - 1),
        on_trace_ready=lambda done: print(
            table(done, options.rows, options.shapes), *parts(done), sep="\n"
        ),
        record_shapes=options.shapes,
    ) as profiler:
        steps = bundled.train(
            model,
            options.method,
            Arithmetic(options.policy, CPU),
            settings,
            bundled.order(settings, seed=0),
            lambda event: profiler.step(),
        )
    print("seconds of each step:", " ".join(f"{s:.2f}" for s in steps.seconds))
    return 0


def table(profiler: profile, rows: int, by_shape: bool) -> str:
    averages = profiler.key_averages(group_by_input_shape=by_shape)
    return str(averages.table(sort_by="self_cpu_time_total", row_limit=rows))


def parts(profiler: profile) -> Iterator[str]:
    """A line for each part: milliseconds of a step, and its share. Python and what calls an
    operator are the rest."""
    events = profiler.key_averages()
    steps = next(event for event in events if event.key.startswith("ProfilerStep"))
    whole = steps.cpu_time_total
    rest = whole
    for part, pattern in PARTS.items():
        took = sum(
            event.self_cpu_time_total
            for event in events
            if re.fullmatch(pattern, event.key.rpartition("::")[2])
        )
        rest -= took
        yield _part(part, took / steps.count, took / whole)
    yield _part("all else, Python and calls included", rest / steps.count, rest / whole)


def _part(name: str, microseconds: float, share: float) -> str:
    return f"{name:38} {microseconds / 1000:7.0f} ms a step  {share:4.0%}"


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
