"""PEFT's own matching of layers' names, done by RE2 instead of `re` in this process.

Every module of PEFT that uses `re` gets `MATCHING` in its place as it is imported, so no pattern of
a stranger's configuration is ever run by a matcher that backtracks.
"""

from __future__ import annotations

import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any

from ftlab.methods.patterns import BadPattern, compiled


def _match(pattern: str, name: str) -> Any:
    return compiled(pattern).match(name)


def _fullmatch(pattern: str, name: str) -> Any:
    return compiled(pattern).fullmatch(name)


def _search(pattern: str, name: str) -> Any:
    return compiled(pattern).search(name)


MATCHING = SimpleNamespace(
    match=_match,
    fullmatch=_fullmatch,
    search=_search,
    compile=compiled,
    escape=re.escape,
    # What is replaced is given by PEFT and transformers, with look-arounds, never by a field of a
    # configuration; tests/methods/test_peft_matching.py looks for a call that is otherwise.
    sub=re.sub,
    subn=re.subn,
    error=BadPattern,
    Match=re.Match,
    Pattern=re.Pattern,
)
"""What of the module `re` PEFT uses."""


def match_without_backtracking() -> None:
    """Lets PEFT match by RE2 from here on: what is imported of it, and what will be."""
    for name, module in list(sys.modules.items()):
        if _is_peft(name):
            _replace_re(module)
    if not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(MetaPathFinder):
    """Finds the modules of PEFT as Python does, and has each handed its matcher."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not _is_peft(name):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PeftLoader(spec.loader.name, spec.loader.path)
        return spec


class _PeftLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _replace_re(module)


def _is_peft(name: str) -> bool:
    return name.partition(".")[0] == "peft"


def _replace_re(module: ModuleType) -> None:
    for name in [name for name, value in vars(module).items() if value is re]:
        setattr(module, name, MATCHING)
