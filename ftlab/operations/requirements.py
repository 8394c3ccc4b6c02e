"""The bounds of requirements.txt, for the doctor and for the audit of known vulnerabilities.

Run as: python -m ftlab.operations.requirements > FILE

prints every requirement at its lowest version, which is what the bounds let in at worst.
"""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ftlab.errors import FtlabError


def requirements_file() -> Path:
    return Path(__file__).resolve().parents[2] / "requirements.txt"


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
