"""What is done to runs from the Results tab: each action ends in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.published import PublishedRun
from ftlab.records.run import RunDirectory, read_annotations
from ftlab.records.store import RunStore
from ftlab.tabs.results import actions
from ftlab.tabs.results.tab import as_ids, said_html, ticked_ids
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_checkpoint, make_run, make_sweep


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Own runs beside recorded ones; nothing is ever started."""
    monkeypatch.setattr(actions, "start_dispatcher", lambda folder: None)
    make_sweep(tmp_path / "recorded" / "x", ("lora",), sweep_id="20260101-000000-eeee")
    return RunStore(tmp_path / "runs", tmp_path / "recorded")


RECORDED = "20260101-000000-eeee-01-lora"


@pytest.fixture
def imported(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One imported result; gives the ids that are removed."""
    removed: list[str] = []
    run = PublishedRun("imported-one", "imported", {})
    monkeypatch.setattr(
        "ftlab.records.store.read_published", lambda folder: ([] if removed else [run], [])
    )
    monkeypatch.setattr(actions, "remove_published", lambda folder, ids: removed.extend(ids))
    return removed


def test_the_question_says_what_goes_and_that_it_is_for_good(store: RunStore) -> None:
    *_, full, lora, qlora = make_sweep(store.folder, ("full", "lora", "qlora"))
    ids = [full.run_id, lora.run_id, qlora.run_id]
    assert actions.delete_question(store, ids) == (
        "Delete 3 runs (ab12-02, ab12-03, ab12-04)? Their adapters go with them; "
        "this cannot be undone."
    )
    assert actions.delete_question(store, ids[:1]).startswith(
        "Delete 1 run (ab12-02)? Its adapter goes"
    )


def test_deleting_says_how_many_went_and_which_base_runs_with_them(store: RunStore) -> None:
    *_, full, lora = make_sweep(store.folder, ("full", "lora"))
    assert actions.delete(store, [full.run_id]) == "1 run deleted."
    assert actions.delete(store, [lora.run_id]) == (
        "1 run deleted, with 1 base run that no other run needs."
    )
    assert store.runs() == []


def test_an_open_run_is_refused_before_anybody_is_asked(store: RunStore) -> None:
    run = make_run(store.folder, status="running")
    with pytest.raises(FtlabError, match="still running; cancel it first"):
        actions.delete_question(store, [run.run_id])


@pytest.mark.parametrize("act", [actions.delete_question, actions.delete, actions.run_again])
def test_a_recorded_run_is_read_only_and_its_neighbours_stay(store: RunStore, act) -> None:
    own = make_run(store.folder)
    with pytest.raises(FtlabError, match="comes recorded with ftlab and is read-only"):
        act(store, [own.run_id, RECORDED])
    assert [run.run_id for run in store.runs()] == [own.run_id]


def test_an_imported_result_is_taken_away_with_its_file(
    store: RunStore, imported: list[str]
) -> None:
    own = make_run(store.folder)
    ids = [own.run_id, "imported-one"]
    assert "Remove 1 imported result?" in actions.delete_question(store, ids)
    assert actions.delete(store, ids) == "1 run deleted, 1 imported result removed."
    assert imported == ["imported-one"]


def test_an_imported_result_is_neither_tagged_nor_run_again_nor_cloned(
    store: RunStore, imported: list[str]
) -> None:
    for act in (
        lambda: actions.tag(store, ["imported-one"], "x", False),
        lambda: actions.run_again(store, ["imported-one"]),
    ):
        with pytest.raises(FtlabError, match="was imported and is read-only"):
            act()
    with pytest.raises(FtlabError, match="have no settings"):
        actions.can_clone(store, ["imported-one"])
    assert actions.can_clone(store, ["imported-one", RECORDED]) == [RECORDED]


def test_archiving_is_undone_by_the_same_button(store: RunStore) -> None:
    run = make_run(store.folder)
    assert not actions.all_archived(store, [run.run_id])
    assert "1 run archived" in actions.archive(store, [run.run_id], True)
    assert actions.all_archived(store, [run.run_id])
    assert "taken out of the archive" in actions.archive(store, [run.run_id], False)
    assert not read_annotations(run).archived


def test_tags_are_added_or_put_instead(store: RunStore) -> None:
    run = make_run(store.folder)
    actions.tag(store, [run.run_id], "a, b", instead=False)
    actions.tag(store, [run.run_id], "b, c", instead=False)
    assert read_annotations(run).tags == ("a", "b", "c")
    actions.tag(store, [run.run_id], "d", instead=True)
    assert read_annotations(run).tags == ("d",)
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
    *_, full, lora = make_sweep(store.folder, ("full", "lora"), model="bundled")
    said = actions.run_again(store, [full.run_id, lora.run_id])
    assert said.startswith("2 runs queued in 1 new sweep")
    assert sum(run.status == "queued" for run in store.runs()) == 3  # a base run comes along


def test_running_again_without_the_file_is_one_sentence(store: RunStore) -> None:
    run = make_run(store.folder, task=TaskReference("file", str(store.folder / "gone.csv")))
    with pytest.raises(FtlabError, match=r"Not queued: .*gone\.csv"):
        actions.run_again(store, [run.run_id])
    assert len(store.runs()) == 1


@pytest.mark.parametrize("wrong", ["../x", "nope", "<b>"])
def test_an_unknown_run_is_one_sentence(store: RunStore, wrong: str) -> None:
    with pytest.raises(FtlabError, match="There is no run"):
        actions.delete(store, [wrong])
    assert "<b>" not in said_html(lambda: actions.delete(store, [wrong]))


def test_nothing_ticked_is_one_sentence(store: RunStore) -> None:
    for act in (actions.delete_question, actions.delete, actions.run_again):
        with pytest.raises(FtlabError, match="No run is ticked"):
            act(store, [])


def test_what_the_browser_says_is_ticked_is_checked() -> None:
    assert ticked_ids(["a", 3]) == ("a", "3")
    assert ticked_ids(None) == ticked_ids("abc") == ()
    assert (as_ids("a"), as_ids(""), as_ids(("a", "b"))) == (("a",), (), ("a", "b"))


def test_a_deleted_run_leaves_no_folder(store: RunStore) -> None:
    run = make_run(store.folder)
    actions.delete(store, [run.run_id])
    assert not RunDirectory(store.folder / run.run_id).path.exists()
    assert list(store.folder.iterdir()) == []


def test_a_run_that_was_cut_off_goes_on_from_the_page(store: RunStore) -> None:
    directory = make_run(store.folder, status="interrupted")
    make_checkpoint(directory)
    assert (
        actions.resume(store, [directory.run_id]) == "1 run queued to go on; Experiment shows how."
    )
    assert directory.status() == "queued"


def test_a_recorded_run_is_not_resumed(store: RunStore) -> None:
    with pytest.raises(FtlabError, match="read-only"):
        actions.resume(store, [RECORDED])
