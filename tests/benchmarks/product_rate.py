"""How fast this machine multiplies matrices in bf16, on which times of training depend most.

Run as: python -m tests.benchmarks.product_rate [--json]

Products of 576 x 576 by 576 x 1536, as SmolLM2-135M's MLP multiplies 576 tokens, in a process that
is set up like a training worker. Every benchmark that prints times of training or of answers prints
this rate with them: machines of one name differ in it by nearly a factor of three.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.devices import cpu_count
from ftlab.basics.processes import worker_environment
from ftlab.models.libraries import prepare_for_libraries

ROWS, INNER, COLUMNS = 576, 576, 1536
OPERATIONS = 2 * ROWS * INNER * COLUMNS
WARM_SECONDS, SECONDS = 0.3, 1.0
"""At 870 GFLOP/s a second holds 850 products, at 100 it holds 98."""


@dataclass(frozen=True)
class ProductRate:
    """The median over `repeats` products. `gflops` is in 10^9 operations a second: a multiplication
    and an addition are two."""

    gflops: float
    repeats: int
    device: str
    cores: int
    torch: str

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        return (
            f"bf16 products of {ROWS} x {INNER} by {INNER} x {COLUMNS}: {self.gflops:.0f} GFLOP/s "
            f"(median of {self.repeats}; {self.device}, {cores}, torch {self.torch})"
        )


@functools.cache
def product_rate() -> ProductRate:
    """This machine's rate, measured once a process."""
    return rate_now()


def rate_now() -> ProductRate:
    """The rate at this moment, measured in a fresh process that begins a session, as a worker does.

    So it does not depend on how the benchmark itself has set torch, which may be imported already.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.product_rate", "--json"],
        env=worker_environment(needs_hub=False),
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        check=True,
    )
    return ProductRate(**json.loads(done.stdout))


def write_figures(path: Path, figures: Any, rate: ProductRate | None) -> None:
    """Writes what a benchmark measured as JSON, with the rate of the machine that it ran on.

    `None` stands for a machine whose rate is not known.
    """
    found = {"product_rate": asdict(rate) if rate else None, "figures": figures}
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    options = parser.parse_args(arguments)
    rate = measure()
    print(json.dumps(asdict(rate)) if options.json else rate)
    return 0


def measure() -> ProductRate:
    """Imports torch, so `prepare_for_libraries` must have been called before."""
    import torch

    from ftlab.models.cpu_products import use_cpu_products
    from ftlab.training.machine import device_name

    use_cpu_products()
    torch.set_num_threads(cpu_count())  # as a run does
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(ROWS, INNER, generator=generator).bfloat16()
    right = torch.randn(INNER, COLUMNS, generator=generator).bfloat16()

    def seconds_each(within: float) -> list[float]:
        taken: list[float] = []
        while sum(taken) < within:
            began = time.perf_counter()
            torch.mm(left, right)
            taken.append(time.perf_counter() - began)
        return taken

    seconds_each(WARM_SECONDS)
    taken = seconds_each(SECONDS)
    return ProductRate(
        gflops=round(OPERATIONS / statistics.median(taken) / 1e9, 1),
        repeats=len(taken),
        device=device_name(torch.device("cpu")),
        cores=cpu_count(),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
