"""The version bounds of requirements.txt, for the doctor and for the vulnerability audit.

In a wheel they are part of its metadata.

Run as: python -m ftlab.operations.requirements > FILE

prints every requirement at its lowest allowed version, the worst case for the audit.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import checkout_folder, is_checkout


def own_requirements() -> list[Requirement]:
    """The requirements of this ftlab. Raises `FtlabError` if they cannot be read."""
    if is_checkout():
        return read_requirements(requirements_file())
    try:
        lines = importlib.metadata.requires("ftlab") or []
    except importlib.metadata.PackageNotFoundError:
        raise FtlabError("The metadata of ftlab's wheel is missing; install ftlab again.") from None
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


def requirements_file() -> Path:
    """The path of requirements.txt. Raises `FtlabError` in an installed wheel, which has none."""
    return checkout_folder() / "requirements.txt"


def read_requirements(path: Path) -> list[Requirement]:
    """Parses the file. Raises `FtlabError` if it is missing or has an invalid line."""
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
