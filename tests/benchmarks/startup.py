"""Seconds from the command to the first byte of the page, caches warm.

Run as: python -m tests.benchmarks.startup [--repeats N]   (exits with 1 above 5 s)
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
from pathlib import Path

from tests.browser.conftest import App

LIMIT = 5.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    seconds = []
    for attempt in range(options.repeats + 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        app = App(Path(tempfile.mkdtemp()), port)
        took = app.start()
        app.stop()
        if attempt:  # the first warms the caches
            seconds.append(took)
            print(f"{took:.2f} s", flush=True)
    print(f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    return 0 if max(seconds) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
