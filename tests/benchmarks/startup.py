"""Seconds from the command to the first byte of the page, caches warm.

Run as: python -m tests.benchmarks.startup [--repeats 5] [--warm-up 1]   (exits with 1 above 5 s)
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.browser.conftest import App

LIMIT = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="starts before, which warm caches")
    options = parser.parse_args(arguments)
    seconds = []
    for attempt in range(options.warm_up + options.repeats):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        app = App(Path(tempfile.mkdtemp()), port)
        took = app.start()
        app.stop()
        if attempt >= options.warm_up:
            seconds.append(took)
            print(f"{took:.2f} s", flush=True)
    print(f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    return 0 if max(seconds) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
