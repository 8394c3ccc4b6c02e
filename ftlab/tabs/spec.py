"""What a tab is, and which there are: every package here whose `tab.py` has a `TAB`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from ftlab import tabs as package
from ftlab.tabs.context import AppContext, Links


@dataclass(frozen=True)
class TabSpec:
    """A tab: its name, its place from the left, and what lays it out and wires it."""

    name: str
    place: int
    build: Callable[[AppContext, Links], None]

    @property
    def id(self) -> str:
        """By what links and scripts name the tab."""
        return self.name.lower()


def tabs() -> list[TabSpec]:
    """All tabs in their order."""
    found: list[TabSpec] = [
        importlib.import_module(f"{module.name}.tab").TAB
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        if module.ispkg
    ]
    return sorted(found, key=lambda tab: tab.place)
