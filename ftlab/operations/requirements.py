"""The bounds of requirements.txt, for the doctor and for the audit of known vulnerabilities.

A wheel carries them as its metadata.

Run as: python -m ftlab.operations.requirements > FILE

prints every requirement at its lowest version, which is what the bounds let in at worst.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import checkout_folder, is_checkout


def own_requirements() -> list[Requirement]:
    """What this ftlab needs. Raises `FtlabError` if it cannot be read."""
    if is_checkout():
        return read_requirements(requirements_file())
    try:
        lines = importlib.metadata.requires("ftlab") or []
    except importlib.metadata.PackageNotFoundError:
        raise FtlabError("The metadata of ftlab's wheel is missing; install ftlab again.") from None
    return [Requirement(line) for line in lines]


def requirements_file() -> Path:
    """Raises `FtlabError` where ftlab was installed from a wheel, which has no such file."""
    return checkout_folder() / "requirements.txt"


def read_requirements(path: Path) -> list[Requirement]:
    """Raises `FtlabError` if the file is missing or a line of it is no requirement."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FtlabError(f"'{path}' cannot be read ({error.strerror}).") from None
    try:
        stripped = (line.partition("#")[0].strip() for line in lines)
        return [Requirement(line) for line in stripped if line]
    except ValueError as error:
        raise FtlabError(f"'{path}' has a line that is no requirement: {error}") from None


def lowest(requirement: Requirement) -> Version | None:
    """The lower bound; `None` for a requirement without one."""
    bounds = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
    return max(bounds, default=None)


def main() -> None:
    for requirement in read_requirements(requirements_file()):
        print(f"{requirement.name}=={lowest(requirement)}")


if __name__ == "__main__":
    main()
