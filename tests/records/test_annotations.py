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


def only_row(folder):
    return RunStore(folder).table().iloc[0]


def test_what_was_written_is_in_the_table(tmp_path):
    directory = make_run(tmp_path, "lora")
    write_annotations(directory, Annotations(True, ("demo", "for Ada"), "the one to show"))
    row = only_row(tmp_path)
    assert (row["archived"], row["tags"], row["note"]) == (True, "demo, for Ada", "the one to show")


def test_a_run_without_annotations_has_none(tmp_path):
    directory = make_run(tmp_path, "lora")
    assert read_annotations(directory) == Annotations()
    assert (only_row(tmp_path)["archived"], only_row(tmp_path)["tags"]) == (False, "")


def test_a_store_that_is_open_sees_new_annotations(tmp_path):
    directory = make_run(tmp_path, "lora")
    store = RunStore(tmp_path)
    assert store.table()["tags"].tolist() == [""]
    write_annotations(directory, Annotations(tags=("late",)))
    assert store.table()["tags"].tolist() == ["late"]


def test_a_note_that_is_too_long_is_refused_and_the_old_one_stays(tmp_path):
    directory = make_run(tmp_path, "lora")
    write_annotations(directory, Annotations(note="short"))
    with pytest.raises(FtlabError, match=r"2,001 characters; at most 2,000"):
        write_annotations(directory, Annotations(note="x" * (NOTE_LENGTH + 1)))
    assert read_annotations(directory).note == "short"


def test_a_broken_file_makes_the_run_unreadable_and_says_why(tmp_path):
    directory = make_run(tmp_path, "lora")
    directory.annotations_file.write_text("{")
    store = RunStore(tmp_path)
    assert store.runs() == []
    assert "annotations.json cannot be read" in store.unreadable[0].reason


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", ()),
        (" , ,", ()),
        ("demo", ("demo",)),
        (" demo ,  for   Ada , demo ", ("demo", "for Ada")),
    ],
)
def test_tags_are_read_from_a_line(text, tags):
    assert parse_tags(text) == tags


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (TAG_LENGTH + 1), "has 41 characters; at most 40"),
        (",".join(map(str, range(TAGS_MOST + 1))), "There are 13 tags; a run takes at most 12"),
    ],
)
def test_tags_that_would_not_fit_are_refused(text, reason):
    with pytest.raises(FtlabError, match=reason):
        parse_tags(text)
