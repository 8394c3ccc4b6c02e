"""A packed sweep shows the same elsewhere, and says nothing of the machine that it comes from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import demo_access
from ftlab.playground.panes import all_sources, find_source
from ftlab.playground.uploaded import upload_adapter
from ftlab.records.comparability import comparability_of_rows
from ftlab.records.run import Annotations, make_read_only, write_annotations
from ftlab.records.spec import dump_spec
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.card_content import card_of
from ftlab.share.pack import pack_sweep
from ftlab.share.report import sweep_report
from ftlab.share.unpack import adapter_of, open_packed, remove_opened, where_from
from ftlab.tasks.reference import TaskReference
from tests.fakes import SWEEP, make_run, make_sweep
from tests.playground.adapters import adapter_folder, config_bytes, weights
from tests.share.packed import LORA, entries, pack, packed_sweep, tree

_OWN = ("run_id", "sweep_id", "origin", "run_dir")


def numbers(report: str) -> list[str]:
    """The table of measures of a report."""
    table = re.search(r"<h2>Results</h2>.*?</table>", report, re.DOTALL)
    assert table is not None
    return re.findall(r"\d[\d.,]*", table.group())


def test_a_packed_sweep_gives_the_same_table_card_and_report_elsewhere(tmp_path: Path) -> None:
    make_sweep(tmp_path / "there", seeds=(0, 1))
    file = pack(tmp_path / "there", tmp_path / "sweep.zip")
    opened = open_packed(file, tmp_path / "here")
    assert opened.sentence == f"8 runs from another machine opened as {opened.sweep_id}."
    there = sweep_data(RunStore(tmp_path / "there"), SWEEP)
    here = sweep_data(RunStore(tmp_path / "here"), opened.sweep_id)
    pd.testing.assert_frame_equal(
        here.table.drop(columns=[*_OWN]), there.table.drop(columns=[*_OWN])
    )
    assert card_of(here).sentence == card_of(there).sentence
    assert card_of(here).tiles == card_of(there).tiles
    assert numbers(sweep_report(here)) == numbers(sweep_report(there))
    for mine, theirs in zip(here.runs, there.runs, strict=True):
        assert mine.directory.samples() == theirs.directory.samples()
        assert [e.get("loss") for e in mine.directory.metrics()] == [
            e.get("loss") for e in theirs.directory.metrics()
        ]
    assert {run.spec.base_run_id for run in here.own_runs} <= {r.run_id for r in here.base_runs}


def test_what_is_opened_is_marked_with_machine_device_and_date(tmp_path: Path) -> None:
    file = packed_sweep(tmp_path)
    opened = open_packed(file, tmp_path / "here")
    data = sweep_data(RunStore(tmp_path / "here"), opened.sweep_id)
    assert (data.origin, {run.origin for run in data.runs}) == ("opened", {"opened"})
    assert where_from(data.runs[0]) == "AMD EPYC 7B13, cpu, 25 Nov 2026"
    assert card_of(data).origin_text == "from another machine 25 Nov 2026"
    report = sweep_report(data)
    section = report[report.index("<h2>Measured ") :]
    for word in ("from another machine", "AMD EPYC 7B13", "cpu", "25 Nov 2026", SWEEP):
        assert word in section[:1500]


def test_times_of_another_machine_are_not_compared_with_those_of_this_one(tmp_path: Path) -> None:
    open_packed(packed_sweep(tmp_path), tmp_path / "here")
    make_sweep(tmp_path / "here", ("full", "lora"), sweep_id="20261126-120000-cd34")
    table = RunStore(tmp_path / "here").table()
    found = comparability_of_rows(table)
    assert not found.is_like
    assert found.values == "origin (2 of 4 runs from another machine)"
    assert comparability_of_rows(table[table["origin"] == "opened"]).is_like


def test_nothing_of_the_machine_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "swordfish-1234")
    monkeypatch.setenv("HOME", "/home/zelda")
    secret = {"uuid": "GPU-77", "platform": "Linux-6.8-zelda", "settings": {"X": "1"}}
    make_sweep(
        tmp_path / "there",
        ("full", "lora"),
        task=TaskReference("file", "/home/zelda/clients/questions.csv"),
        model="/data/models/own-model",
        environment=secret | {"data": "/home/zelda/clients/questions.csv"},
        notes=("Read from file:///home/zelda/x.csv with hf_abcdefgh and swordfish-1234",),
        log="the log of zelda",
    )
    make_run(
        tmp_path / "there", "dora", "failed", sweep_id=SWEEP, run_id=f"{SWEEP}-09-dora",
        reason=r"No file C:\Users\zelda\q.csv or ~/zelda/q.csv or \\host\zelda\q.csv",
    )  # fmt: skip
    store = RunStore(tmp_path / "there")
    for run in store.runs():
        write_annotations(run.directory, Annotations(tags=("secret-tag",), note="secret-note"))
    packed = pack_sweep(sweep_data(store, SWEEP), tmp_path / "sweep.zip")
    assert packed.runs == 3
    files = entries(packed.path)
    text = b"".join(files.values()).decode()
    for private in (
        "zelda", "clients", "/data", "swordfish", "hf_abc", "secret", "GPU-77", "Linux-6.8",
        str(tmp_path), '"pid"', "process_started", "the log",
    ):  # fmt: skip
        assert private not in text, private
    spec = json.loads(files[f"{LORA}/spec.json"])
    assert spec["task"]["id"] == "/elsewhere/questions.csv"
    assert spec["model"] == "/elsewhere/own-model"
    assert {name.rpartition("/")[2] for name in files} == {
        "manifest.json", "spec.json", "result.json", "metrics.jsonl", "samples.jsonl",
    }  # fmt: skip
    here = tmp_path / "here"
    data = sweep_data(RunStore(here), open_packed(packed.path, here).sweep_id)
    assert set(data.table["task"]) == {"questions.csv", "SQL"}


def test_packing_again_gives_the_same_bytes_and_opening_again_changes_nothing(
    tmp_path: Path,
) -> None:
    file = packed_sweep(tmp_path, adapters=True)
    first = file.read_bytes()
    assert pack(tmp_path / "there", tmp_path / "again.zip", True).read_bytes() == first
    opened = open_packed(file, tmp_path / "here")
    before = tree(tmp_path / "here")
    again = open_packed(tmp_path / "again.zip", tmp_path / "here")
    assert again.sentence == f"This sweep is open already, as {opened.sweep_id}."
    assert tree(tmp_path / "here") == before


def test_own_runs_stay_what_they_are_beside_an_opened_copy_of_themselves(tmp_path: Path) -> None:
    file = packed_sweep(tmp_path)
    runs = tmp_path / "there"
    before = tree(runs)
    opened = open_packed(file, runs)
    assert {name: data for name, data in tree(runs).items() if "opened" not in name} == before
    store = RunStore(runs)
    assert store.find(LORA).origin == "measured"
    assert {run.spec.sweep_id for run in store.runs()} == {SWEEP}
    assert store.table()["sweep_id"].value_counts().to_dict() == {SWEEP: 2, opened.sweep_id: 2}
    # An own run of the very same name wins.
    make_run(runs, "lora", sweep_id=opened.sweep_id, run_id=f"{opened.sweep_id}-02-lora")
    assert store.find(f"{opened.sweep_id}-02-lora").origin == "measured"
    assert {run.origin for run in store.sweep(opened.sweep_id)} == {"measured"}


def test_an_adapter_that_was_packed_can_be_asked_and_goes_with_its_sweep(tmp_path: Path) -> None:
    here = tmp_path / "here"
    own = upload_adapter(
        adapter_folder(tmp_path / "mine", config_bytes(lora_alpha=8)), here, label="Mine"
    )
    opened = open_packed(packed_sweep(tmp_path, adapters=True), here)
    assert opened.adapters == 1
    run = RunStore(here).find(f"{opened.sweep_id}-02-lora")
    source = find_source(here, adapter_of(run))
    assert source.is_adapter
    assert source.label == "LoRA, seed 0"
    assert "from another machine" in source.detail
    assert source.name in [source.name for source in all_sources([], here)]
    remove_opened(here, opened.sweep_id)
    names = [source.name for source in all_sources([], here)]
    assert own.name in names
    assert source.name not in names
    assert RunStore(here).opened() == []
    assert tree(here / ".ftlab" / "opened") == {}


def test_an_adapter_that_was_here_before_keeps_its_label_and_stays(tmp_path: Path) -> None:
    here = tmp_path / "here"
    file = packed_sweep(tmp_path, adapters=True)
    same = adapter_folder(tmp_path / "same", entries(file)[f"{LORA}/adapter/adapter_config.json"])
    own = upload_adapter(same, here, label="Mine")
    opened = open_packed(file, here)
    assert find_source(here, own.name).label == "Mine"
    assert adapter_of(RunStore(here).find(f"{opened.sweep_id}-02-lora")) == own.name
    remove_opened(here, opened.sweep_id)
    assert find_source(here, own.name).label == "Mine"


def test_an_adapter_that_only_answers_here_is_left_out_with_the_reason(tmp_path: Path) -> None:
    *_, lora = make_sweep(tmp_path / "there", ("full", "lora"))
    adapter_folder(lora.adapter, config_bytes(init_lora_weights="loftq"))
    data = sweep_data(RunStore(tmp_path / "there"), SWEEP)
    packed = pack_sweep(data, tmp_path / "sweep.zip", adapters=True)
    assert packed.adapters == 0
    assert len(packed.left_out) == 2
    assert "weights of" in packed.left_out[0]
    assert "answers only here" in packed.left_out[1]


def test_a_refused_adapter_leaves_neither_sweep_nor_adapters(tmp_path: Path) -> None:
    *_, full, lora = make_sweep(tmp_path / "there", ("dora", "lora"))
    adapter_folder(full.adapter)
    adapter_folder(lora.adapter, tensors=weights(fill=0xFF))  # NaN
    file = pack(tmp_path / "there", tmp_path / "sweep.zip", adapters=True)
    with pytest.raises(FtlabError, match=r"adapter of .* is refused: .* NaN"):
        open_packed(file, tmp_path / "here")
    assert tree(tmp_path / "here") == {}


def test_a_sweep_that_goes_on_or_has_no_result_is_not_packed(tmp_path: Path) -> None:
    make_sweep(tmp_path / "there", ("full",))
    make_run(tmp_path / "there", "lora", "running")
    with pytest.raises(FtlabError, match="still has 1 open run; wait"):
        pack(tmp_path / "there", tmp_path / "sweep.zip")
    make_run(tmp_path / "other", "lora", "interrupted")
    with pytest.raises(FtlabError, match="nothing to pack"):
        pack(tmp_path / "other", tmp_path / "sweep.zip")
    assert not (tmp_path / "sweep.zip").exists()


def test_an_interrupted_run_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    make_sweep(tmp_path / "there", ("full",))
    make_run(tmp_path / "there", "lora", "interrupted")
    data = sweep_data(RunStore(tmp_path / "there"), SWEEP)
    packed = pack_sweep(data, tmp_path / "sweep.zip")
    assert packed.left_out == (f"{LORA} is interrupted and has no result.",)
    assert open_packed(packed.path, tmp_path / "here").runs == 1


def test_a_demo_and_a_read_only_folder_open_nothing(tmp_path: Path) -> None:
    file = packed_sweep(tmp_path)
    with pytest.raises(FtlabError, match="public demo"):
        open_packed(file, tmp_path / "here", demo_access())
    make_read_only(tmp_path / "here", "It is closed.")
    with pytest.raises(FtlabError, match="It is closed"):
        open_packed(file, tmp_path / "here")


def test_an_opened_run_that_lost_its_result_is_named_and_its_sweep_can_be_removed(
    tmp_path: Path,
) -> None:
    opened = open_packed(packed_sweep(tmp_path), tmp_path / "here")
    store = RunStore(tmp_path / "here")
    (store.find(f"{opened.sweep_id}-02-lora").directory.result_file).unlink()
    spec = store.opened()[1]
    assert [broken.run_id for broken in store.unreadable] == [f"{opened.sweep_id}-02-lora"]
    spec.directory.spec_file.write_bytes(dump_spec(replace(spec.spec, run_id="other-run")))
    remove_opened(tmp_path / "here", opened.sweep_id)
    assert RunStore(tmp_path / "here").opened() == []


@pytest.mark.slow
def test_the_commands_pack_a_sweep_and_open_it_elsewhere(tmp_path: Path) -> None:
    *_, lora = make_sweep(tmp_path / "there", ("full", "lora"))
    adapter_folder(lora.adapter)
    file = tmp_path / "sweep.zip"

    def ftlab(*arguments: str, runs: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ftlab", *arguments, "--runs-dir", str(tmp_path / runs)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    said = ftlab("pack", SWEEP, "--adapters", "-o", str(file), runs="there")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("2 runs and 1 adapter packed (")
    assert "The weights of" in said.stderr
    said = ftlab("open", str(file), runs="here")
    assert said.returncode == 0, said.stderr
    first, then = said.stdout.splitlines()
    assert first.startswith("2 runs and 1 adapter from another machine opened as ")
    sweep = then.split()[-1]
    assert then == f"python -m ftlab report {sweep}"
    file.write_bytes(file.read_bytes()[:-100])
    said = ftlab("open", str(file), runs="here")
    assert (said.returncode, said.stdout) == (2, "")
    assert "is damaged or no zip" in said.stderr
    said = ftlab("open", "--remove", sweep, runs="here")
    assert said.stdout == f"{sweep} removed.\n"
    assert RunStore(tmp_path / "here").opened() == []
