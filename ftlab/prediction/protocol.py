"""What the asking process and the predicting one say to each other, a line at a time.

A line is a number and what belongs to it. To the worker that is a question with its limits, or
nothing where nobody waits for that number any more; from it a prediction, or the `Ending` of a
question without one.
"""

from __future__ import annotations

from typing import cast, get_args

from ftlab.errors import FtlabError
from ftlab.prediction.limits import Ending, Limits
from ftlab.prediction.question import Prediction, load_prediction


def numbered(number: int, content: bytes = b"") -> bytes:
    """The line, with its line end; `content` is one line of JSON, or an ending."""
    return b"%d %s\n" % (number, content)


def limited(question: bytes, limits: Limits) -> bytes:
    """What is asked under a number: the question, one line of JSON, and what it may take."""
    return b"%r %d %s" % (limits.cpu_seconds, limits.memory_bytes, question)


def parse_limited(content: bytes) -> tuple[Limits, bytes]:
    """Raises `ValueError` for what has no limits."""
    seconds, size, question = content.split(b" ", 2)
    return Limits(float(seconds), int(size)), question


def parse_numbered(line: bytes) -> tuple[int, bytes]:
    """Raises `ValueError` for a line that does not begin with a number."""
    number, _, content = line.strip().partition(b" ")
    return int(number), content


def parse_answer(content: bytes) -> Prediction | Ending:
    """Raises `FtlabError` for what is neither."""
    word = content.decode("utf-8", "replace")
    if word in get_args(Ending):
        return cast(Ending, word)
    if not content.startswith(b"{"):
        raise FtlabError("The prediction's process said what is no prediction.")
    return load_prediction(content)
