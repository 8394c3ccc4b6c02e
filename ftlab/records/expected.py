"""How long a run was expected to take before it began: kept beside its spec.

The queue says from it what is left of a run that has not begun or measured its own pace, and the
result shows it beside the measured time. A run needs it for nothing: it may be missing.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_record, write_atomically
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Expected:
    """Seconds of training, of scoring, of the rest of the run, and until the next run begins."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    train: Seconds = 0.0
    evaluate: Seconds = 0.0
    other: Seconds = 0.0
    between: Seconds = 0.0

    @property
    def total(self) -> float:
        """What the run itself takes, as `Measures.total_seconds`."""
        return self.train + self.evaluate + self.other


_EXPECTED = TypeAdapter(Expected)


def read_expected(directory: RunDirectory) -> Expected | None:
    """What was expected; `None` if nothing is known, or the file is unreadable."""
    try:
        return read_record(_EXPECTED, directory.expected_file)
    except (FtlabError, OSError):
        return None


def write_expected(directory: RunDirectory, expected: Expected) -> None:
    """Raises `OSError` if the file cannot be written."""
    write_atomically(directory.expected_file, _EXPECTED.dump_json(expected))


def with_expected(result: RunResult, directory: RunDirectory) -> RunResult:
    """Returns the result with the seconds that were expected of the run; never raises."""
    try:
        expected = read_expected(directory)
    except Exception:  # the run does not need it; its log has the reason
        traceback.print_exc()
        return result
    if expected is None:
        return result
    measures = replace(result.measures, predicted_total_seconds=round(expected.total, 3))
    return replace(result, measures=measures)
