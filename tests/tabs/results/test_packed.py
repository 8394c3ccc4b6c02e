"""A sweep as a file in the Results tab: packed from a run's panel, opened by an upload, removed."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import EVERYTHING, demo_access
from ftlab.records.store import RunStore
from ftlab.tabs.results import actions
from ftlab.tabs.results.actions import (
    can_clone,
    delete,
    delete_question,
    packed_file,
    run_again,
    tag,
    use_view,
)
from ftlab.tabs.results.columns import Query, sweep_choices
from ftlab.tabs.results.panel import opened_run, panel
from ftlab.tabs.results.tab import Side, answer, opened_html
from tests.fakes import make_run, make_sweep
from tests.playground.adapters import adapter_folder
from tests.share.packed import LORA, packed_sweep


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """An opened sweep beside an own one."""
    monkeypatch.setattr(actions, "get_upload_folder", lambda: str(tmp_path / "served"))
    store = RunStore(tmp_path / "here")
    make_run(store.folder, sweep_id="20261126-120000-cd34")
    assert "opened as" in opened_html(store, EVERYTHING, str(packed_sweep(tmp_path, adapters=True)))
    return store


def opened_lora(store: RunStore) -> str:
    return next(run.run_id for run in store.opened() if run.spec.method == "lora")


def test_a_file_that_is_opened_or_refused_is_said_and_opened_sweeps_lead_to_compare(
    here: RunStore, tmp_path: Path
) -> None:
    said = opened_html(here, EVERYTHING, str(tmp_path / "sweep.zip"))
    assert "This sweep is open already" in said
    assert f'href="?tab=compare&amp;sweep={here.opened()[0].spec.sweep_id}"' in said
    (tmp_path / "<b>.zip").write_bytes(b"no zip")
    said = opened_html(here, EVERYTHING, str(tmp_path / "<b>.zip"))
    assert "is damaged or no zip" in said
    assert "<b>" not in said
    assert "public demo" in opened_html(here, demo_access(), str(tmp_path / "sweep.zip"))
    assert "is no file" in opened_html(here, EVERYTHING, None)


def test_an_opened_run_is_marked_in_table_list_and_panel(here: RunStore) -> None:
    table, below, *_ = answer(here, Query())
    assert table.count(">from another machine<") == 2
    assert "From another machine: read-only" in below
    assert "from another machine" in sweep_choices(here.table())[2][0]
    top = panel(here.find(opened_lora(here))).top
    assert "Measured on AMD EPYC 7B13, cpu, 25 Nov 2026." in top
    assert "Its adapter is in the Playground" in top


def test_only_the_whole_opened_sweep_can_be_removed(here: RunStore) -> None:
    ids = [opened_lora(here)]
    assert delete_question(here, ids) == (
        f"Remove the whole sweep 25 Nov 12:00 {here.opened()[0].spec.sweep_id[16:]} (2 runs) from "
        "another machine, with its adapters in the Playground? It can be opened again from its "
        "file."
    )
    assert delete(here, ids) == "1 opened sweep removed."
    assert here.opened() == []
    assert len(here.runs()) == 1


def test_an_opened_run_is_read_only_but_can_be_cloned(here: RunStore) -> None:
    run_id = opened_lora(here)
    with pytest.raises(FtlabError, match="is from another machine and read-only"):
        run_again(here, [run_id])
    with pytest.raises(FtlabError, match="is from another machine and read-only"):
        tag(here, [run_id], "x")
    assert can_clone(here, [run_id]) == [run_id]


def test_the_panel_of_an_opened_run_offers_to_remove_its_sweep(here: RunStore) -> None:
    with gr.Blocks():
        side = Side()
    places = {id(part): place for place, part in enumerate(side.outputs)}
    shown = opened_run(here, opened_lora(here), side)
    remove, again = (shown[places[id(part)]] for part in (side.delete, side.again))
    assert (remove.value, remove.visible, again.visible) == ("Remove sweep", True, False)


def test_a_run_offers_its_sweep_as_a_file_with_or_without_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "get_upload_folder", lambda: str(tmp_path / "served"))
    *_, lora = make_sweep(tmp_path / "there", ("full", "lora"))
    adapter_folder(lora.adapter)
    store = RunStore(tmp_path / "there")
    shown = use_view(store, LORA)
    assert any("All 2 runs of this sweep as one file; adapters add about" in str(part)
               for part in shown)  # fmt: skip
    plain, said = packed_file(store.find(LORA), store, adapters=False)
    assert said.startswith("2 runs packed (")
    without = plain.stat().st_size
    file, said = packed_file(store.find(LORA), store, adapters=True)
    assert said.startswith("2 runs and 1 adapter packed (")
    assert file == plain
    assert file.name == f"ftlab-sweep-{LORA[:20]}.zip"
    assert file.stat().st_size > without
