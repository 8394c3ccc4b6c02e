"""The time that comparing two answers word by word takes, for texts that are hard to align.

Run as: python -m tests.benchmarks.text_differences [--repeats 5]

Ends with status 1 if a thousand words take a tenth of a second or more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ftlab.playground.text_difference import word_differences
from tests.playground.test_differences import (
    lists_alike_in_commas_alone,
    two_words_at_random,
    two_words_in_a_loop,
)

LIMIT_SECONDS = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5, help="the least of which is taken")
    options = parser.parse_args(arguments)
    missed = 0
    for make in (two_words_in_a_loop, lists_alike_in_commas_alone, two_words_at_random):
        for count in (200, 1_000):
            text, against = make(count)
            least = min(_seconds(text, against) for _ in range(options.repeats))
            print(f"{make.__name__}, {count:,} words: {1000 * least:.1f} ms")
            missed += least >= LIMIT_SECONDS
    return 1 if missed else 0


def _seconds(text: str, against: str) -> float:
    began = time.process_time()
    word_differences(text, against)
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
