"""What the asking process and the predicting one say to each other, a line at a time.

A line is a number and what belongs to it. To the worker that is a question, or nothing where nobody
waits for that number any more; from it a prediction, or the `Ending` of a question without one.
"""

from __future__ import annotations

from typing import cast, get_args

from ftlab.errors import FtlabError
from ftlab.prediction.limits import Ending
from ftlab.prediction.question import Prediction, load_prediction


def numbered(number: int, content: bytes = b"") -> bytes:
    """The line, with its line end; `content` is one line of JSON, or an ending."""
    return b"%d %s\n" % (number, content)


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
