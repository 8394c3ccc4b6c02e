"""Recording a finished sweep, and the recording that ships."""

from __future__ import annotations

import hashlib
import re
import shlex
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import build_parser
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.commands.sweep import request_from
from ftlab.maintain.__main__ import PROGRAM
from ftlab.methods.registry import CORE
from ftlab.records.recording import (
    MAX_BYTES,
    PROVENANCE_FILE,
    machine_path,
    newest_sweep,
    read_provenance,
    record_sweep,
)
from ftlab.records.run import run_directories
from ftlab.records.store import RunStore, sweep_data
from ftlab.tasks.reference import TaskReference
from tests.fakes import LOG, SWEEP, make_run, make_sweep

COMMAND = "python -m ftlab sweep --task sql"
OTHER = "20261126-080000-cd34"
SHIPPED = sorted(path.parent for path in recorded_folder().glob(f"*/{PROVENANCE_FILE}"))
MACHINE = re.compile(rb"/(?:home|root|tmp|work|mnt|Users|var|opt)/|[A-Z]:\\\\")


def record(folder: Path, sweep_id: str = SWEEP, replace: bool = False) -> Path:
    """Records a sweep of `folder`/runs in `folder`/out."""
    return record_sweep(folder / "runs", sweep_id, folder / "out", COMMAND, "abc123", replace)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------- recording


def test_a_recording_reads_as_the_sweep_that_it_was(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", seeds=(0, 1))
    record(tmp_path)
    store = RunStore(tmp_path / "none", tmp_path / "out")
    recorded = sweep_data(store, SWEEP)
    measured = sweep_data(RunStore(tmp_path / "runs"), SWEEP)
    assert recorded.origin == "recorded"
    differs = [c for c in measured.table if not measured.table[c].equals(recorded.table[c])]
    assert differs == ["origin", "run_dir"]
    for own, kept in zip(measured.runs, recorded.runs, strict=True):
        assert kept.directory.samples() == own.directory.samples()
        losses = [event["loss"] for event in own.directory.metrics() if event["event"] == "step"]
        assert losses == [e["loss"] for e in kept.directory.metrics() if e["event"] == "step"]


def test_weights_logs_and_process_ids_stay_behind(tmp_path: Path) -> None:
    for run in make_sweep(tmp_path / "runs"):
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    folder = record(tmp_path)
    kept = contents(folder)
    assert {Path(name).name for name in kept} == {
        "spec.json", "result.json", "metrics.jsonl", "samples.jsonl", PROVENANCE_FILE,
    }  # fmt: skip
    everything = b"".join(kept.values())
    for left_out in (b"weights\n", b'"pid"', b"process_started", b"Linux-6.8", LOG.encode()):
        assert left_out not in everything


def test_provenance_says_how_where_and_with_what(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", measures={"disturbed": True}, methods=("lora",))
    provenance = read_provenance(record(tmp_path))
    assert (provenance.command, provenance.commit) == (COMMAND, "abc123")
    assert provenance.measured_at == "2026-11-25T12:00:00Z"
    assert (provenance.machine, provenance.cores) == ("AMD EPYC 7B13", 2)
    assert provenance.packages["torch"] == "2.13.0"
    assert provenance.disturbed == (f"{SWEEP}-01-lora",)
    assert len(provenance.files) == 8


@pytest.mark.parametrize("status", ["queued", "running", "failed", "interrupted"])
def test_a_sweep_that_is_not_wholly_done_is_not_recorded(status: str, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", methods=("lora",))
    run = make_run(tmp_path / "runs", "full", status)  # type: ignore[arg-type]
    with pytest.raises(FtlabError, match=rf"{run.run_id} is {status}; only"):
        record(tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_unknown_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match=f"no sweep '{SWEEP}'"):
        record(tmp_path)
    with pytest.raises(FtlabError, match="There is no sweep in"):
        newest_sweep(tmp_path)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"task": TaskReference("file", "/home/ada/private.csv")}, "names '/home/ada/private.csv'"),
        ({"samples": [{"answer_after": "x" * MAX_BYTES}]}, "at most 3,000,000 may ship"),
    ],
    ids=["local path", "too large"],
)
def test_records_that_must_not_ship_are_refused(
    made: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    make_sweep(tmp_path / "runs", methods=("lora",), **made)
    with pytest.raises(FtlabError, match=reason):
        record(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('"/home/ada/x"', "/home/ada/x"),
        (r"C:\\Users\\ada", r"C:\\Users"),
        ("see https://huggingface.co/peft and file x/y/z", None),
        ("1/2/3 of HuggingFaceTB/SmolLM2-135M", None),
        ("and/or, 3 / 4, a /b", None),
    ],
)
def test_local_paths_are_distinguished_from_addresses_and_fractions(
    text: str, path: str | None
) -> None:
    assert machine_path(text) == path


def test_a_recording_replaces_only_those_of_its_methods_and_task_and_only_if_asked_to(
    tmp_path: Path,
) -> None:
    kept = {
        SWEEP: {},
        "20261126-090000-cd35": {"task": TaskReference("bundled", "pirate")},
        "20261126-100000-cd36": {"methods": ("full", "lora")},
    }
    for sweep_id, change in (kept | {OTHER: {}}).items():
        make_sweep(tmp_path / "runs", sweep_id=sweep_id, **change)  # type: ignore[arg-type]
        record(tmp_path, sweep_id)
    with pytest.raises(FtlabError, match="is there already"):
        record(tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {OTHER, *kept}
    record(tmp_path, replace=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*kept}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_newest_sweep_is_the_one_queued_last(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    later = make_run(tmp_path, sweep_id="20261125-110000-ffff")  # an earlier id, a later date
    later.complete_spec(replace(later.spec(), created_at=later.spec().created_at + 60))
    assert newest_sweep(tmp_path) == "20261125-110000-ffff"


def test_what_is_no_recording_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="is no recording"):
        read_provenance(tmp_path)
    (tmp_path / PROVENANCE_FILE).write_text('{"sweep_id": 3}')
    with pytest.raises(FtlabError, match=r"provenance\.json cannot be read: sweep_id"):
        read_provenance(tmp_path)


# ---------------------------------------------------------------- what ships


def test_a_sweep_of_four_methods_ships_and_one_of_twelve_or_more() -> None:
    methods = [{run.spec().method for run in run_directories(folder)} for folder in SHIPPED]
    few, many = sorted(methods, key=len)
    assert few == {"base", *CORE}
    assert len(many - {"base"}) >= 12
    assert many > few


each_shipped = pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)


@each_shipped
def test_every_shipped_file_is_the_recorded_one_without_local_paths(folder: Path) -> None:
    kept = contents(folder)
    for name, data in kept.items():
        assert not MACHINE.search(data), name
    kept.pop(PROVENANCE_FILE)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in kept.items()}
    assert hashes == read_provenance(folder).files
    assert sum(map(len, kept.values())) <= MAX_BYTES


@each_shipped
def test_every_shipped_run_reads_and_is_done(folder: Path, tmp_path: Path) -> None:
    store = RunStore(tmp_path, recorded_folder())
    runs = [run for run in store.shipped() if run.spec.sweep_id == folder.name]
    assert len(runs) == len(run_directories(folder))
    assert {run.status for run in runs} == {"done"}
    assert {run.spec.seed for run in runs if not run.spec.is_base} == {0, 1, 2}
    table = sweep_data(store, folder.name).table
    for column in ("net_peak_memory_bytes", "train_seconds", "adapter_bytes", "score_after"):
        assert table[column].notna().all(), column


@each_shipped
def test_shipped_samples_have_every_example_of_the_score(folder: Path) -> None:
    for directory in run_directories(folder):
        result, rows = directory.result(), directory.samples()
        assert result is not None
        assert len(rows) == directory.spec().settings.eval_examples
        after = result.measures.score_after
        if after is not None:
            assert statistics.fmean(row["score_after"] for row in rows) == pytest.approx(after)
            assert all("score_before" in row for row in rows)


@each_shipped
def test_the_shipped_command_requests_the_sweep_that_was_run(folder: Path) -> None:
    _, _, _, *arguments = shlex.split(read_provenance(folder).command)
    request = request_from(build_parser().parse_args(["sweep", *arguments[1:]]))
    specs = [directory.spec() for directory in run_directories(folder)]
    trained = [spec for spec in specs if not spec.is_base]
    assert {spec.settings for spec in specs} == {request.settings}
    assert [spec.variant for spec in trained] == list(request.variants) * len(request.seeds)


def test_the_make_target_runs_the_shipped_sweeps_and_records_them() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nrecorded:")[1].split("\n\n")[0].splitlines()[1:]
    arguments = [shlex.split(line)[3:] for line in recipe]
    parser, maintainers = build_parser(), PROGRAM.parser()
    measured = []
    for sweep, record_line in zip(arguments[::2], arguments[1::2], strict=True):
        request = request_from(parser.parse_args(sweep))
        options = maintainers.parse_args(record_line)
        assert options.runs_dir == parser.parse_args(sweep).runs_dir
        assert options.replace
        measured.append((list(request.variants), list(request.seeds), request.settings))
    shipped = []
    for folder in SHIPPED:
        specs = [directory.spec() for directory in run_directories(folder)]
        trained = [spec for spec in specs if not spec.is_base]
        variants = [spec.variant for spec in trained if spec.seed == trained[0].seed]
        shipped.append((variants, sorted({spec.seed for spec in trained}), trained[0].settings))
    assert sorted(measured, key=repr) == sorted(shipped, key=repr)
