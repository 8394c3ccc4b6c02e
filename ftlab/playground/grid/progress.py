"""How far a grid is, read from its files. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ftlab.playground.grid.record import OPEN, GridDirectory

_ENOUGH = 3.0
"""Answers' worth of tokens that carry an estimate."""


@dataclass(frozen=True)
class Progress:
    """A grid's way: cells `done` of `total`, `errors` among them.

    `reached` also counts what is under way, each answer as its share of the tokens it may get.
    `eta_seconds` is the time on the device until the last cell (`None`: not known yet, 0 once it
    has ended); it does not count what is waited for others. `waiting` is a sentence while nothing
    is answered, else "".
    """

    done: int
    errors: int
    total: int
    reached: float
    eta_seconds: float | None
    waiting: str = ""

    @property
    def fraction(self) -> float:
        """In [0, 1]."""
        return self.reached / self.total if self.total else 0.0


def read_progress(grid: GridDirectory) -> Progress:
    """Raises `FtlabError` if the grid's request cannot be read."""
    total = grid.request().cells
    cells = grid.cells()
    done, errors = len(cells), sum(bool(cell.error) for cell in cells)
    if grid.status() not in OPEN:
        return Progress(done, errors, total, done, 0.0)
    process = grid.process()
    if process is None:
        return Progress(done, errors, total, done, None, "Starting …")
    reached = min(float(total), max(float(done), process.reached))
    worked = max(process.worked_seconds, cells[-1].worked_seconds if cells else 0.0)
    eta = _eta(worked, reached, total)
    return Progress(done, errors, total, reached, eta, process.waiting)


def _eta(worked_seconds: float, reached: float, total: int) -> float | None:
    """By the rate so far. It errs on the long side: prompts go from long to short, and an answer
    under way is taken to need all the tokens that it may get."""
    if not worked_seconds or reached < min(_ENOUGH, total / 10):
        return None
    return worked_seconds / reached * (total - reached)
