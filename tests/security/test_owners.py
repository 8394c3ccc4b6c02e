"""What somebody else made can be seen where all see all, but neither ended, changed nor removed."""

from __future__ import annotations

import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import NOBODY, OPERATOR, Person, asked_by
from ftlab.jobs.control import request_cancel
from ftlab.jobs.inputs import Access
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.grid import find_grid, list_grids
from ftlab.playground.panes import find_source, uploaded_sources
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.uploaded import forget_adapter, upload_adapter, vouch_for_base
from ftlab.playground.votes import read_votes, record_vote
from ftlab.race.record import RaceRequest, RaceSettings, find_race, list_races
from ftlab.race.start import resume_race, start_race
from ftlab.records.kept_bases import keep, take
from ftlab.records.merge import MergeDirectory
from ftlab.records.published import import_files, remove_published
from ftlab.records.removal import remove_runs
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import Annotations, find_run, write_annotations
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.merge_control import start_merge
from ftlab.share.pack import pack_sweep
from ftlab.share.unpack import open_packed, remove_opened
from ftlab.tabs.results import actions
from tests.fakes import make_run
from tests.security.servers import tree
from tests.security.test_closed import VOTE
from tests.security.test_people_apart import ADA, SWEEP, Things, make_things

BOB = Person("bob", sees_all=True, changes_all=False)
PRIVATE_BOB = Person("bob", sees_all=False, changes_all=False)

CHANGES: dict[str, Callable[[Path, Things], object]] = {
    "end a run": lambda runs, ada: request_cancel(runs, [ada.queued.run_id]),
    "resume a run": lambda runs, ada: ask_to_resume(ada.running),
    "delete a run": lambda runs, ada: remove_runs(runs, [ada.done.run_id]),
    "annotate a run": lambda runs, ada: write_annotations(ada.done, Annotations(note="x")),
    "merge a run": lambda runs, ada: start_merge(RunStore(runs).find(ada.done.run_id)),
    "end a merge": lambda runs, ada: MergeDirectory(ada.done).cancel(),
    "extend a sweep": lambda runs, ada: enqueue_sweep(
        checked(SweepRequest(variants=(Variant("lora"),))), runs, [ada.done.spec()]
    ),
    "stop a race": lambda runs, ada: ada.race.cancel(),
    "resume a race": lambda runs, ada: resume_race(ada.race),
    "end a prompt grid": lambda runs, ada: ada.grid.cancel(),
    "remove an adapter": lambda runs, ada: forget_adapter(runs, ada.adapter),
    "remove an opened sweep": lambda runs, ada: remove_opened(runs, ada.opened),
    "delete in Results": lambda runs, ada: actions.delete(RunStore(runs), [ada.done.run_id]),
    "archive": lambda runs, ada: actions.archive(RunStore(runs), [ada.done.run_id], True),
    "tag": lambda runs, ada: actions.tag(RunStore(runs), [ada.done.run_id], "x"),
    "note": lambda runs, ada: actions.save_notes(RunStore(runs), ada.done.run_id, "x", "x"),
    "resume in Results": lambda runs, ada: actions.resume(RunStore(runs), [ada.running.run_id]),
    "remove an imported result": lambda runs, ada: remove_published(runs, ["x"]),
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def ada(runs: Path, tmp_path: Path) -> Things:
    return make_things(runs, tmp_path)


@pytest.mark.hostile("changes to what belongs to others")
@pytest.mark.parametrize("change", CHANGES)
def test_nobody_changes_what_somebody_else_made(change: str, runs: Path, ada: Things) -> None:
    before = tree(runs)
    with asked_by(BOB), pytest.raises(FtlabError) as error:
        CHANGES[change](runs, ada)
    assert "only its owner or an admin may do that" in str(error.value)
    assert tree(runs) == before


@pytest.mark.parametrize("who", [ADA, OPERATOR, Person("root")], ids=["owner", "operator", "admin"])
@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"remove an imported result"}))
def test_its_owner_the_operator_and_an_admin_may(
    change: str, who: Person, runs: Path, ada: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else may keep them from it, such as a run that has no checkpoint."""
    for name in ("jobs.control.start_dispatcher", "share.merge_control.start_detached"):
        monkeypatch.setattr(f"ftlab.{name}", lambda *args: None)
    with asked_by(who):
        why = said(lambda: CHANGES[change](runs, ada))
    assert "only its owner" not in why


def said(act: Callable[[], object]) -> str:
    """The sentence with which it is refused; "" if it is done."""
    try:
        act()
    except FtlabError as error:
        return str(error)
    return ""


def test_where_all_see_all_what_others_made_is_found(runs: Path, ada: Things) -> None:
    with asked_by(BOB):
        assert find_run(runs, ada.done.run_id) == ada.done
        assert find_race(runs, ada.race.race_id) == ada.race
        assert find_grid(runs, ada.grid.grid_id).path == ada.grid.path
        assert find_source(runs, ada.adapter).name == ada.adapter
        table = RunStore(runs).table()
        assert set(table.loc[table["sweep_id"] == SWEEP, "owner"]) == {"ada"}


@pytest.mark.hostile("things of another person")
def test_where_each_sees_their_own_nothing_else_is_found_and_the_word_is_that_there_is_none(
    runs: Path, ada: Things
) -> None:
    with asked_by(PRIVATE_BOB):
        assert RunStore(runs).runs() == RunStore(runs).opened() == []
        assert list_races(runs) == list_grids(runs) == []
        for find, name in (
            (find_run, ada.done.run_id), (find_race, ada.race.race_id),
            (find_grid, ada.grid.grid_id), (find_source, ada.adapter),
            (forget_adapter, ada.adapter),
        ):  # fmt: skip
            with pytest.raises(FtlabError, match=r"There is no|names no"):
                find(runs, name)  # type: ignore[operator]
        assert RunStore(runs).runs_of_all(), "the queue still counts them"


def test_two_people_bring_the_same_adapter_and_neither_learns_of_the_other(
    runs: Path, tmp_path: Path, ada: Things
) -> None:
    folder = uploaded_copy(ada, tmp_path)
    with asked_by(ADA):
        hers = upload_adapter(folder, runs, "Merger 2027").name
    for bob in (PRIVATE_BOB, BOB):
        with asked_by(bob):
            his = upload_adapter(folder, runs, "Merger 2027").name
            assert his != hers
            assert his.removeprefix("adapter:")[-9:].count("-") == 1, "no number tells of another"
            upload_adapter(folder, runs, "renamed")
            assert find_source(runs, his).label == "renamed", "one's own is reused"
            forget_adapter(runs, his)
    with asked_by(ADA):
        assert find_source(runs, hers).label == "Merger 2027"


def uploaded_copy(ada: Things, place: Path) -> Path:
    folder = place / "adapter"
    shutil.copytree(ada.done.adapter, folder)
    for name in ("record.json", "pane.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def test_nobody_confirms_the_base_of_somebody_elses_adapter(runs: Path, ada: Things) -> None:
    with asked_by(BOB), pytest.raises(FtlabError, match="belongs to ada"):
        vouch_for_base(runs, ada.adapter, "bundled")


def test_the_same_packed_sweep_is_opened_by_each_without_a_word_about_the_other(
    runs: Path, tmp_path: Path, ada: Things
) -> None:
    packed = tmp_path / "packed.zip"
    with asked_by(PRIVATE_BOB):
        first = open_packed(packed, runs)
        assert not first.already
        assert first.sweep_id != ada.opened
        assert open_packed(packed, runs).already
        assert {run.spec.owner for run in RunStore(runs).opened()} == {"bob"}
        remove_opened(runs, first.sweep_id)
    with asked_by(ADA):
        assert {run.spec.sweep_id for run in RunStore(runs).opened()} == {ada.opened}


def test_a_packed_sweep_says_nothing_of_who_made_it(tmp_path: Path, ada: Things) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        for name in archive.namelist():
            assert b'"owner"' not in archive.read(name)


def test_where_each_sees_their_own_an_admin_imports_results(runs: Path, ada: Things) -> None:
    with asked_by(PRIVATE_BOB), pytest.raises(FtlabError, match="an admin imports them"):
        import_files([], runs)
    with asked_by(BOB):
        import_files([], runs)


def test_an_opening_that_fails_takes_back_its_own_adapters_and_no_others(
    runs: Path, tmp_path: Path, ada: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, folder = tmp_path / "with-adapters.zip", uploaded_copy(ada, tmp_path)
    run = RunStore(runs).find(ada.done.run_id)
    with asked_by(ADA):
        pack_sweep(sweep_data(RunStore(runs), run.spec.sweep_id), packed, True)
    found: list[str] = []

    def fails(*given: object) -> None:
        with asked_by(ADA):  # somebody uploads meanwhile
            found.append(upload_adapter(folder, runs, "meanwhile").name)
        with asked_by(PRIVATE_BOB):
            found.extend(source.name for source in uploaded_sources(runs))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftlab.share.unpack.write_opened", fails)
    with asked_by(PRIVATE_BOB), pytest.raises(FtlabError, match="No space left"):
        open_packed(packed, runs)
    assert len(found) == 2, "bob's adapter was there"
    with asked_by(PRIVATE_BOB):
        assert not uploaded_sources(runs)
    with asked_by(ADA):
        assert {source.name for source in uploaded_sources(runs)} == {ada.adapter, found[0]}


def test_each_counts_their_own_blind_votes(runs: Path) -> None:
    for person, number in ((ADA, 3), (PRIVATE_BOB, 1)):
        with asked_by(person):
            for _ in range(number):
                record_vote(runs, replace(VOTE, id=secrets.token_hex(8)))
            assert len(read_votes(runs, ())) == number
    assert len(read_votes(runs, ())) == 4, "the operator sees all"


def test_a_race_needs_room_in_the_queue_and_keeps_others_from_racing_for_hours_at_most(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.race.start.start_detached", lambda *args: None)
    request = RaceRequest(
        SweepRequest(variants=(Variant("lora"),)), RaceSettings(minutes=241), (0,)
    )
    bob = replace(PRIVATE_BOB, most_queued=0)
    with asked_by(bob), pytest.raises(FtlabError, match="would keep others from racing"):
        start_race(request, [], runs)
    short = replace(request, settings=RaceSettings(minutes=5))
    with asked_by(bob), pytest.raises(FtlabError, match="0 is the most of one person"):
        start_race(short, [], runs)
    assert not list_races(runs)
    with asked_by(replace(bob, most_queued=1)):
        assert start_race(short, [], runs).owner == "bob"


def test_a_request_without_a_login_queues_nothing(runs: Path) -> None:
    request = checked(SweepRequest(variants=(Variant("lora"),)))
    with asked_by(NOBODY), pytest.raises(FtlabError, match="0 is the most of one person here"):
        enqueue_sweep(request, runs)


def test_a_damaged_run_of_somebody_else_is_one_that_is_not_there(runs: Path, ada: Things) -> None:
    ada.done.spec_file.write_text("{torn")
    for run_id in (ada.done.run_id, "20261125-120000-nono-01-lora"):
        with asked_by(PRIVATE_BOB), pytest.raises(FtlabError) as error:
            find_run(runs, run_id)
        assert str(error.value).startswith("There is no run")


def test_whether_a_path_in_the_runs_folder_is_there_is_not_told(
    runs: Path, ada: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    access = Access(folders=(), closed=runs)
    for name in (f"runs/{ada.done.run_id}", "runs/20261125-120000-nono-01-lora"):
        with pytest.raises(FtlabError, match="is a path of the machine"):
            access.check_model(name)


def test_the_playground_s_worker_gets_only_the_panes_that_may_answer_and_their_base(
    runs: Path, ada: Things
) -> None:
    """It does not know who asks, and would take the base from a pane that was refused."""
    spec = ada.done.spec()
    ada.done.complete_spec(replace(spec, model="/srv/ada/secret-base-7B"))
    sent: list[GenerateRequest] = []
    client = PlaygroundClient(runs, ["false"])

    def ask(request: GenerateRequest, seconds: float) -> Iterator[dict[str, object]]:
        sent.append(request)
        yield {"pane": 0, "kind": "done", "text": "Hello."}

    client._worker.ask = ask  # type: ignore[assignment,method-assign]
    request = GenerateRequest(panes=(ada.done.run_id, "base"), prompt="Hi")
    with asked_by(PRIVATE_BOB):
        hers, base = client.generate_all(request)
    assert [one.panes for one in sent] == [("base",)]
    assert sent[0].model == BUNDLED_ID
    assert base["answer"] == "Hello."
    assert "There is no run" in hers["error"]
    assert "secret" not in str((hers, base, sent))


def test_a_base_that_somebody_else_measured_is_used_without_naming_their_run(
    runs: Path, ada: Things, tmp_path: Path
) -> None:
    base = next(run for run in RunStore(runs).runs() if run.spec.is_base)
    assert base.result is not None
    kept = tmp_path / "kept.json"
    keep(kept, base.directory, base.result)
    for owner, named in (("ada", True), ("bob", False)):
        with asked_by(Person(owner)):
            later = make_run(runs, "base", "queued", sweep_id=f"20261126-120000-{owner}")
        found = take(kept, later)
        assert found is not None
        assert found.measures == base.result.measures
        assert (base.run_id in str((found.notes, found.environment))) == named
