"""Notes, tags, deleting and archiving: what a visitor's forged request can make of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.records.run import NOTE_LENGTH, TAG_LENGTH, TAGS_MOST, read_annotations
from ftlab.records.store import RunStore
from ftlab.tabs.results import actions
from ftlab.tabs.results.panel import panel
from tests.data.hostile.make import TEXTS
from tests.fakes import make_run
from tests.security.servers import tree
from tests.security.test_inert import BREAKOUT, assert_inert

NAMES = [
    *TEXTS, BREAKOUT, "\ud800", "a\udfffb", "\x00", "a\x1b[31mb", "a\rb", "\u202egnp.exe",
    "\u2067x", "__proto__", "constructor", "null", "{{x}}", "../../x", "'; rm -rf /", "a\u2028b",
]  # fmt: skip
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"


@pytest.mark.hostile("notes and tags")
@pytest.mark.parametrize("text", NAMES, ids=lambda text: ascii(text)[:40])
def test_a_note_and_a_tag_are_inert_text_wherever_they_are_shown(text: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    store = RunStore(tmp_path)
    tags = ",".join(part[:TAG_LENGTH] for part in text.split(",")[:TAGS_MOST])
    actions.tag(store, [directory.run_id], tags or "x", instead=True)
    actions.save_notes(store, directory.run_id, tags, text[:NOTE_LENGTH])
    kept = read_annotations(directory)
    for shown in (*kept.tags, kept.note):
        assert not set(shown) & set(TURNING + "\x00\x1b\r")
        shown.encode()
    (run,) = store.runs()
    assert_inert("".join(map(str, vars(panel(run)).values())))
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["runs", "--runs-dir", str(tmp_path), "--format=csv"]) == 0
        assert main(["runs", "--runs-dir", str(tmp_path), "--format=json"]) == 0
    assert not set(said.getvalue()) & set(TURNING + "\x00\x1b")


@pytest.mark.hostile("notes and tags")
@pytest.mark.parametrize(
    ("tags", "note", "sentence"),
    [
        (",".join(map(str, range(100_000))), "", "There are 100,000 tags; a run takes at most 12"),
        ("a" * 10_000_000, "", "has 10,000,000 characters; at most 40"),
        ("a", "b" * 10_000_000, "The note has 10,000,000 characters; at most 2,000"),
    ],
)
def test_a_note_or_tags_that_are_too_long_are_one_sentence_and_change_nothing(
    tags: str, note: str, sentence: str, tmp_path: Path
) -> None:
    directory = make_run(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(FtlabError, match=sentence) as error:
        actions.save_notes(RunStore(tmp_path), directory.run_id, tags, note)
    assert len(str(error.value)) < 300
    assert tree(tmp_path) == before


ACTIONS: dict[str, Callable[[RunStore, Any], object]] = {
    "delete": lambda store, run_id: actions.delete(store, [run_id]),
    "ask to delete": lambda store, run_id: actions.delete_question(store, [run_id]),
    "archive": lambda store, run_id: actions.archive(store, [run_id], True),
    "tag": lambda store, run_id: actions.tag(store, [run_id], "x", True),
    "note": lambda store, run_id: actions.save_notes(store, run_id, "x", "x"),
    "run again": lambda store, run_id: actions.run_again(store, [run_id]),
    "resume": lambda store, run_id: actions.resume(store, [run_id]),
}
FORGED = [
    "", ".", "..", "/", "../outside", "..\\outside", ".ftlab", "published", "linked-run-0001",
    "foreign-folder", "20261125-120000-ab12-99-lora", "a" * 5_000, "\x00", "\ud800", "*", "~",
    "20261125-120000-ab12-00-lora/..", "%2e%2e", "recorded",
]  # fmt: skip


@pytest.mark.hostile("forged ids of runs")
@pytest.mark.parametrize("action", ACTIONS)
def test_a_forged_id_touches_no_folder_that_is_no_run_of_the_app(
    action: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    runs = tmp_path / "runs"
    make_run(runs)
    outside = make_run(tmp_path / "outside")
    (runs / "linked-run-0001").symlink_to(outside.path)
    (runs / "foreign-folder").mkdir()
    (runs / "foreign-folder" / "thesis.txt").write_text("mine")
    store = RunStore(runs, recorded_folder())
    shipped = [run.run_id for run in store.shipped()]
    assert shipped
    before, recorded = tree(tmp_path), tree(recorded_folder())
    for run_id in (*FORGED, *shipped):
        with pytest.raises(FtlabError) as error:
            ACTIONS[action](store, run_id)
        assert len(str(error.value)) < 600
    assert tree(tmp_path) == before
    assert tree(recorded_folder()) == recorded
    record_property("hostile inputs", len(FORGED) + len(shipped))


@pytest.mark.hostile("forged ids of runs")
@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_open_run_is_not_deleted_whoever_asks(status: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path, status=status)  # type: ignore[arg-type]
    with pytest.raises(FtlabError, match="cancel it first"):
        actions.delete(RunStore(tmp_path), [directory.run_id])
    assert directory.spec_file.exists()
