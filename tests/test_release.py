"""What a release consists of agrees: one version, its date, and the locked packages."""

from __future__ import annotations

import datetime
import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ftlab import __version__
from ftlab.operations.requirements import read_requirements, requirements_file
from tests.documents import ROOT

CITATION = yaml.safe_load((ROOT / "docs" / "CITATION.cff").read_text(encoding="utf-8"))
CHANGES = re.findall(
    r"^## (\S+) \((\S+)\)$", (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"), re.M
)
LOCK = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")
LOCKED = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+) ", LOCK, re.MULTILINE)
}
NEEDED = read_requirements(requirements_file())


def test_citation_and_changelog_are_of_this_version_and_of_one_day() -> None:
    version, day = CHANGES[0]
    assert version == str(CITATION["version"]) == __version__
    assert CITATION["date-released"] == datetime.date.fromisoformat(day)


def test_the_changelog_has_each_version_once_and_the_newest_first() -> None:
    versions = [Version(version) for version, _ in CHANGES]
    assert versions == sorted(set(versions), reverse=True)


def test_the_citation_has_what_its_format_demands() -> None:
    """https://github.com/citation-file-format/citation-file-format: the required keys."""
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    assert str(CITATION["cff-version"]) == "1.2.0"
    assert f'license = "{CITATION["license"]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_each_requirement_is_locked_within_its_bounds(requirement: Requirement) -> None:
    assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier


def test_each_locked_package_has_its_hashes_and_no_source_is_named() -> None:
    entries = re.split(r"\n(?=[\w])", LOCK.partition("\n")[2])
    assert len(entries) == len(LOCKED) > len(NEEDED)
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+(?: ; .+?)?(?: \\\n    --hash=sha256:\w{64})+\n?", entry)
    assert "://" not in LOCK
