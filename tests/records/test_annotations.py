from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.run import (
    NOTE_LENGTH,
    TAG_LENGTH,
    TAGS_MOST,
    Annotations,
    parse_tags,
    read_annotations,
    write_annotations,
)
from ftlab.records.store import RunStore
from tests.fakes import make_run


def test_what_was_written_is_in_the_table(tmp_path: Path) -> None:
    directory, store = make_run(tmp_path, "lora"), RunStore(tmp_path)
    assert read_annotations(directory) == Annotations()
    row = store.table().iloc[0]
    assert (row["archived"], row["tags"], row["note"]) == (False, "", "")
    write_annotations(directory, Annotations(True, ("demo", "for Ada"), "the one to show"))
    row = store.table().iloc[0]
    assert (row["archived"], row["tags"], row["note"]) == (True, "demo, for Ada", "the one to show")


def test_a_note_that_is_too_long_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "lora")
    write_annotations(directory, Annotations(note="short"))
    with pytest.raises(FtlabError, match=r"2,001 characters; at most 2,000"):
        write_annotations(directory, Annotations(note="x" * (NOTE_LENGTH + 1)))
    assert read_annotations(directory).note == "short"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", ()),
        (" , ,", ()),
        ("demo", ("demo",)),
        (" demo ,  for   Ada , demo ", ("demo", "for Ada")),
        ("x" * (TAG_LENGTH + 1), "has 41 characters; at most 40"),
        (",".join(map(str, range(TAGS_MOST + 1))), "There are 13 tags; a run takes at most 12"),
    ],
    ids=["empty", "commas", "one", "spaces and repeats", "too long", "too many"],
)
def test_tags_are_read_from_a_line_or_refused(text: str, tags: tuple[str, ...] | str) -> None:
    if isinstance(tags, str):
        with pytest.raises(FtlabError, match=tags):
            parse_tags(text)
    else:
        assert parse_tags(text) == tags
