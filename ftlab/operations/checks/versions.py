"""Python and the libraries, against the bounds of requirements.txt."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Callable, Sequence

from packaging.requirements import Requirement
from packaging.version import Version

from ftlab.operations.finding import Finding
from ftlab.paths import is_checkout

LEAST_PYTHON = (3, 11)
_NAMED = ("torch", "transformers", "peft", "bitsandbytes", "gradio")


def check_python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    found = ".".join(map(str, version))
    if tuple(version[:2]) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Finding("python", "fail", found, f"ftlab needs Python {least} or newer")
    return Finding("python", "ok", found)


def check_versions(
    requirements: Sequence[Requirement],
    installed: Callable[[str], str] = importlib.metadata.version,
) -> Finding:
    """`installed` gives a distribution's version or raises `PackageNotFoundError`."""
    versions: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for requirement in requirements:
        name, bounds = requirement.name, requirement.specifier
        try:
            versions[name] = installed(name)
        except importlib.metadata.PackageNotFoundError:
            wrong[str(requirement)] = f"{name} is missing (needs {bounds})"
            continue
        # A build for one kind of device, as in 2.13.0+cpu, is that version.
        if not bounds.contains(Version(versions[name]).public, prereleases=True):
            wrong[str(requirement)] = f"{name} {versions[name]} (needs {bounds})"
    if wrong:
        what = "-r requirements.txt" if is_checkout() else shlex.join(wrong)
        found = "; ".join(wrong.values())
        return Finding("libraries", "fail", found, f"python -m pip install {what}")
    named = ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)
    return Finding("libraries", "ok", f"{len(versions)} within their bounds: {named}")
