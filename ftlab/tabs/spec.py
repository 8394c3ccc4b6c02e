"""Defines a tab, and finds all tabs: each package here has a `tab.py` with a `TAB`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from ftlab import tabs as package
from ftlab.tabs.context import AppContext, Links


@dataclass(frozen=True)
class TabSpec:
    """A tab: its name, its position from the left, and the function that builds it."""

    name: str
    place: int
    build: Callable[[AppContext, Links], None]

    @property
    def id(self) -> str:
        """The id of the tab for links and scripts."""
        return self.name.lower()


def tabs() -> list[TabSpec]:
    """Returns all tabs in display order."""
    found: list[TabSpec] = [
        importlib.import_module(f"{module.name}.tab").TAB
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        if module.ispkg
    ]
    return sorted(found, key=lambda tab: tab.place)
