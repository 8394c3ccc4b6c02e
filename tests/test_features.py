"""docs/features.md is true: every test that it names exists, and no row is without an answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parent / "docs" / "features.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT)))
ROWS = re.findall(r"^\| (?!what a person)(.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)


def defines(file: Path, function: str) -> bool:
    """Whether the file is there and has a function of that name."""
    pattern = rf"^ *(async )?def {function}\("
    return file.is_file() and re.search(pattern, file.read_text(encoding="utf-8"), re.M) is not None


@pytest.mark.parametrize(("file", "function"), NAMED)
def test_a_test_that_the_document_names_is_there(file: str, function: str) -> None:
    if not defines(TESTS / file, function):
        now = [path.relative_to(TESTS) for path in TESTS.rglob("*.py") if defines(path, function)]
        pytest.fail(f"{function} is not in {file}; it is in: {', '.join(map(str, now)) or 'none'}")


def test_every_row_names_a_test_or_says_that_there_is_none() -> None:
    assert len(ROWS) > 200
    assert [what for what, told in ROWS if "::" not in told and told != "**none**"] == []
