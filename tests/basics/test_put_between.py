"""Replacing what stands between two marks of a document."""

from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import put_between


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("a\n<b>\nold\n<e>\nz")
    put_between("<b>", "<e>", "new", file)
    assert file.read_text() == "a\n<b>\nnew\n<e>\nz"


@pytest.mark.parametrize("text", ["", "a <b>", "<e> a", None])
def test_a_document_without_a_place_for_it_is_named_and_left_as_it_is(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "a.md"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FtlabError, match=r"a\.md"):
        put_between("<b>", "<e>", "new", file)
    assert text is None or file.read_text() == text
