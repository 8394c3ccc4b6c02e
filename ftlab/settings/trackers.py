"""Where a run's losses can be logged to as well, for people who watch them with another program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ftlab.errors import FtlabError

Tracker = Literal["tensorboard", "trackio"]

TRACKERS: dict[Tracker, str] = {"tensorboard": "TensorBoard", "trackio": "trackio"}
"""The Trainer's name of each (which is also its package's), and what people call it."""


def is_installed(tracker: str) -> bool:
    """Whether its package is there; nothing is imported to find out."""
    return tracker in TRACKERS and find_spec(tracker) is not None


def problems_of_trackers(names: Sequence[str]) -> Iterator[str]:
    """A sentence for each name that is unknown, not installed or given twice."""
    for i, name in enumerate(names):
        if name not in TRACKERS:
            yield f"'{str(name)[:40]}' is none of: {', '.join(TRACKERS)}."
        elif name in names[:i]:
            yield f"{name} is named twice; name it once."
        elif not is_installed(name):
            yield f"{name} is not installed; pip install {name}, or leave it out."


def parse_trackers(given: object) -> tuple[Tracker, ...]:
    """Reads "tensorboard,trackio", "none", or a list of names; unknown ones are left to the check.

    Raises `FtlabError` for what is no list of names.
    """
    names = given.split(",") if isinstance(given, str) else given
    if names is None:
        return ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise FtlabError(
            f"Log to is '{str(given)[:40]}'; it must be names out of: {', '.join(TRACKERS)}."
        )
    stripped = (name.strip() for name in names)
    return tuple(name for name in stripped if name and name != "none")


def tensorboard_folder(run_folder: Path) -> Path:
    """In the run's own folder, so that `tensorboard --logdir runs` finds it and it goes with it."""
    return run_folder / "tensorboard"


def trackio_folder(runs_folder: Path) -> Path:
    """One database for all runs of a folder."""
    return runs_folder / "trackio"
