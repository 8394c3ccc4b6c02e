"""Actions on runs from the Results tab: each returns a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.published import PublishedRun
from ftlab.records.run import read_annotations
from ftlab.records.store import RunStore
from ftlab.tabs.results import actions
from ftlab.tabs.results.tab import as_ids, said_html, ticked_ids
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_checkpoint, make_run, make_sweep

RECORDED = "20260101-000000-eeee-01-lora"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Own runs beside recorded ones; nothing is ever started."""
    monkeypatch.setattr(actions, "start_dispatcher", lambda folder: None)
    make_sweep(tmp_path / "recorded" / "x", ("lora",), sweep_id="20260101-000000-eeee")
    return RunStore(tmp_path / "runs", tmp_path / "recorded")


def tag_x(store: RunStore, ids: Sequence[str]) -> str:
    return actions.tag(store, ids, "x")


ACTS = [actions.delete_question, actions.delete, actions.run_again, actions.resume, tag_x]


@pytest.mark.parametrize("act", ACTS)
def test_no_act_takes_a_recorded_an_unknown_or_no_run(
    store: RunStore, act: Callable[[RunStore, Sequence[str]], str]
) -> None:
    own = make_run(store.folder)
    with pytest.raises(FtlabError, match="comes recorded with ftlab and is read-only"):
        act(store, [own.run_id, RECORDED])
    for wrong in ("../x", "nope", "<b>"):
        with pytest.raises(FtlabError, match="There is no run"):
            act(store, [wrong])
        assert "<b>" not in said_html(partial(act, store, [wrong]))
    with pytest.raises(FtlabError, match="No run is ticked"):
        act(store, [])
    assert [run.run_id for run in store.runs()] == [own.run_id]
    assert read_annotations(own).tags == ()


def test_the_question_names_the_runs_and_deleting_takes_unneeded_base_runs_along(
    store: RunStore,
) -> None:
    *_, full, lora, qlora = make_sweep(store.folder, ("full", "lora", "qlora"))
    ids = [full.run_id, lora.run_id, qlora.run_id]
    assert actions.delete_question(store, ids) == (
        "Delete 3 runs (ab12-02, ab12-03 and ab12-04)? Their adapters go with them; "
        "this cannot be undone."
    )
    question = actions.delete_question(store, ids[:1])
    assert question.startswith("Delete 1 run (ab12-02)? Its adapter goes")
    assert actions.delete(store, ids[:1]) == "1 run deleted."
    assert actions.delete(store, ids[1:]) == (
        "2 runs deleted, with 2 base runs that no other run needs."
    )
    assert store.runs() == []
    assert list(store.folder.iterdir()) == []
    run = make_run(store.folder, status="running")
    with pytest.raises(FtlabError, match="still running; cancel it first"):
        actions.delete_question(store, [run.run_id])


def test_an_imported_result_is_taken_away_with_its_file(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    found = [PublishedRun("imported-one", "imported", {})]
    monkeypatch.setattr(
        "ftlab.records.store.read_published", lambda folder: ([] if removed else found, [])
    )
    monkeypatch.setattr(actions, "remove_published", lambda folder, ids: removed.extend(ids))
    for act in (tag_x, actions.run_again):
        with pytest.raises(FtlabError, match="was imported and is read-only"):
            act(store, ["imported-one"])
    with pytest.raises(FtlabError, match="have no settings"):
        actions.can_clone(store, ["imported-one"])
    assert actions.can_clone(store, ["imported-one", RECORDED]) == [RECORDED]
    ids = [make_run(store.folder).run_id, "imported-one"]
    assert "Remove 1 imported result?" in actions.delete_question(store, ids)
    assert actions.delete(store, ids) == "1 run deleted, 1 imported result removed."
    assert removed == ["imported-one"]


def test_archiving_is_undone_by_the_same_button(store: RunStore) -> None:
    run = make_run(store.folder)
    assert not actions.all_archived(store, [run.run_id])
    assert "1 run archived" in actions.archive(store, [run.run_id], True)
    assert actions.all_archived(store, [run.run_id])
    assert "taken out of the archive" in actions.archive(store, [run.run_id], False)
    assert not read_annotations(run).archived


def test_tags_are_added_or_put_instead(store: RunStore) -> None:
    run = make_run(store.folder)
    for text, instead, tags in (
        ("a, b", False, ("a", "b")), ("b, c", False, ("a", "b", "c")), ("d", True, ("d",)),
    ):  # fmt: skip
        actions.tag(store, [run.run_id], text, instead)
        assert read_annotations(run).tags == tags
    assert actions.tag(store, [run.run_id], "", instead=True) == "Tags taken from 1 run."


def test_wrong_tags_change_no_run(store: RunStore) -> None:
    first, second = make_run(store.folder), make_run(store.folder)
    actions.tag(store, [second.run_id], ", ".join("abcdefghijkl"), instead=True)
    ids = [first.run_id, second.run_id]
    for text, sentence in (("", "No tag is given"), ("x" * 41, "41 characters"), ("z", "13 tags")):
        with pytest.raises(FtlabError, match=sentence):
            actions.tag(store, ids, text, instead=False)
    assert read_annotations(first).tags == ()


def test_a_note_is_saved_with_its_tags(store: RunStore) -> None:
    run = make_run(store.folder)
    assert actions.save_notes(store, run.run_id, "a", " Mine. ") == "Saved."
    assert (read_annotations(run).tags, read_annotations(run).note) == (("a",), "Mine.")
    with pytest.raises(FtlabError, match="at most 2,000"):
        actions.save_notes(store, run.run_id, "", "x" * 2001)


def test_running_again_says_how_many_were_queued(store: RunStore) -> None:
    gone = make_run(store.folder, task=TaskReference("file", str(store.folder / "gone.csv")))
    with pytest.raises(FtlabError, match=r"Not queued: .*gone\.csv"):
        actions.run_again(store, [gone.run_id])
    assert len(store.runs()) == 1
    *_, full, lora = make_sweep(store.folder, ("full", "lora"), model="bundled")
    said = actions.run_again(store, [full.run_id, lora.run_id])
    assert said.startswith("2 runs queued in 1 new sweep")
    assert sum(run.status == "queued" for run in store.runs()) == 3  # with a base run


def test_the_ticked_ids_sent_by_the_browser_are_checked() -> None:
    assert ticked_ids(["a", 3]) == ("a", "3")
    assert ticked_ids(None) == ticked_ids("abc") == ()
    assert (as_ids("a"), as_ids(""), as_ids(("a", "b"))) == (("a",), (), ("a", "b"))


def test_a_run_that_was_cut_off_goes_on_from_the_page(store: RunStore) -> None:
    run = make_run(store.folder, status="interrupted")
    make_checkpoint(run)
    assert actions.resume(store, [run.run_id]) == "1 run queued to go on; Experiment shows how."
    assert run.status() == "queued"
