"""A part of the Compare tab that a module of its own builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftlab.runs.sweep_data import SweepData


@dataclass(frozen=True)
class Section:
    """Components, and what each of them shows of a sweep: `show` gives one update a component.

    Compare calls `show` as the tab is opened and whenever another sweep is chosen.
    """

    outputs: tuple[Any, ...]
    show: Callable[[SweepData], list[Any]]
