"""Which test files take half a second or more, and how long.

`pytest --fast` (and `make check`) leaves them out; `make test` starts with the longest.

Run as: python -m tests.slow LOG, where LOG is what `pytest -vv --durations=0` printed. It writes
tests/slow.txt. A file that is not listed there, as a new one, is fast until it was measured.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

LIST = Path(__file__).with_name("slow.txt")
MOST_SECONDS = 0.5
_DURATION = re.compile(r"^([\d.]+)s (?:call|setup|teardown) +(tests/[\w/]+\.py)::", re.MULTILINE)


def slow_files() -> dict[str, float]:
    """The seconds of each listed file, by its path from the checkout's folder."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return {file: float(seconds) for seconds, file in map(str.split, lines)}


def measured(log: str) -> list[tuple[str, float]]:
    """The files whose tests took `MOST_SECONDS` or more together, the longest first."""
    seconds: Counter[str] = Counter()
    for taken, file in _DURATION.findall(log):
        seconds[file] += float(taken)
    return [(file, taken) for file, taken in seconds.most_common() if taken >= MOST_SECONDS]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("log", type=Path, metavar="LOG", help="what pytest --durations=0 printed")
    parser.add_argument("--write", type=Path, default=LIST, metavar="FILE", help="(%(default)s)")
    options = parser.parse_args(arguments)
    files = measured(options.log.read_text(encoding="utf-8"))
    lines = [f"{seconds:.1f} {file}\n" for file, seconds in files]
    options.write.write_text("".join(lines), encoding="utf-8")
    print(f"{len(files)} files take {MOST_SECONDS:g} s or more")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
