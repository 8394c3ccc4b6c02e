"""What a busy process costs the products of a run: one with `nice` alone, one on spare cores, one
that is stopped, as a prediction is while steps are timed.

Run as: python -m tests.benchmarks.spare_cores [--repeats 3] [--beside nice spare stopped]

The processes begin sessions of their own, as workers do. The ways take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftlab.basics.processes import worker_environment
from tests.benchmarks.product_rate import product_rate, rate_now

_BUSY = (
    "import os, sys\n"
    "from ftlab.basics.system import use_spare_cores\n"
    "os.nice(19) if sys.argv[1] == 'nice' else use_spare_cores()\n"
    "print(flush=True)\n"
    "while True: pass"
)
WAYS = {"alone": "", "nice 19": "nice", "spare cores": "spare", "stopped": "stopped"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    ways = list(filter(None, WAYS.values()))
    parser.add_argument("--beside", nargs="+", choices=ways, default=ways)
    options = parser.parse_args(arguments)
    print(product_rate(), flush=True)
    tried = {way: name for way, name in WAYS.items() if name in ("", *options.beside)}
    rates: dict[str, list[float]] = {way: [] for way in tried}
    for _ in range(options.repeats):
        for way, neighbour in tried.items():
            with beside(neighbour):
                rates[way].append(rate_now().gflops)
    alone = statistics.median(rates["alone"])
    for way, found in rates.items():
        now = statistics.median(found)
        print(f"{way:12} {now:5.0f} GFLOP/s, {alone / now:.2f} times the time alone")
    return 0


@contextmanager
def beside(neighbour: str) -> Iterator[None]:
    """A process that is busy as a prediction is, on one core; none for ""."""
    if not neighbour:
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY, neighbour],
        env=worker_environment(needs_hub=False),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if neighbour == "stopped":
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
