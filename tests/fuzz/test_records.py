"""The records of a runs folder: a damaged one is a sentence, and its neighbours stay readable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftlab.charts.loss import loss_points
from ftlab.charts.score_steps import quality_points
from ftlab.playground.grid import GridDirectory, GridRequest
from ftlab.playground.panes import RECORD_FILE, read_record
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.votes import read_votes
from ftlab.prediction.question import load_prediction, load_question
from ftlab.records.merge import MergeDirectory
from ftlab.records.progress import read_progress
from ftlab.records.published import documents_of, import_files, parse_result
from ftlab.records.recording import read_provenance
from ftlab.records.result import load_result
from ftlab.records.run import RunDirectory
from ftlab.records.spec import load_spec
from ftlab.records.store import RunStore, read_run, sweep_data
from ftlab.share.report_sections import samples_of, samples_section
from ftlab.tabs.results.panel import panel
from tests.fakes import SWEEP, make_run
from tests.fuzz.conftest import Fuzz
from tests.fuzz.strategies import as_json, damaged, torn, values

PUBLISHED = sorted((Path(__file__).parents[1] / "data").glob("lora--*.json"))[0]
PUBLISHED_CSV = Path(__file__).parents[1] / "data" / "peft_metamathqa.csv"


def _shown(directory: RunDirectory) -> None:
    """Everything that a page does with a run."""
    store = RunStore(directory.path.parent)
    table = store.table()
    assert len(table) + len(store.unreadable) >= 1
    run = read_run(directory)
    run.row()
    read_progress(run)
    panel(run)
    directory.status()
    directory.worker()


@pytest.mark.slow
@pytest.mark.hostile("fuzzed records")
@pytest.mark.parametrize("name", ["spec.json", "result.json"])
def test_a_damaged_record_is_shown_or_a_sentence(tmp_path: Path, fuzz: Fuzz, name: str) -> None:
    directory = make_run(tmp_path)
    whole = (directory.path / name).read_bytes()

    def with_it(data: bytes) -> None:
        (directory.path / name).write_bytes(data)
        _shown(directory)

    fuzz(damaged(json.loads(whole)).map(as_json), with_it, 30)
    fuzz(torn(whole), with_it, 20)


@pytest.mark.slow
@pytest.mark.hostile("fuzzed records")
@pytest.mark.parametrize("status", ["done", "running"])
def test_damaged_metrics_are_shown_without_the_damaged_lines(
    tmp_path: Path, fuzz: Fuzz, status: Any
) -> None:
    directory = make_run(tmp_path, status=status, steps=4)
    lines = [json.loads(line) for line in directory.metrics_file.read_text().splitlines()]
    lines[1:1] = [
        {"event": "phase", "phase": "download", "elapsed": 0.1},
        {"event": "download", "done": 0, "total": 9_000, "elapsed": 0.2},
        {"event": "download", "done": 4_000, "total": 9_000, "elapsed": 0.7},
    ]
    lines += [
        {"event": "phase", "phase": "evaluate", "elapsed": 9.0},
        {"event": "evaluate", "done": 1, "total": 4, "elapsed": 9.5},
        {"event": "evaluation", "step": 2, "loss": 1.0, "score": 0.5},
    ]

    def with_it(data: bytes) -> None:
        directory.metrics_file.write_bytes(data)
        _shown(directory)
        data_of_sweep = sweep_data(RunStore(tmp_path), SWEEP)
        loss_points(data_of_sweep)
        quality_points(data_of_sweep)

    fuzz(damaged(lines).map(_as_lines), with_it, 24)
    fuzz(torn(_as_lines(lines)), with_it, 20)


@pytest.mark.slow
@pytest.mark.hostile("fuzzed records")
def test_damaged_samples_are_shown_without_the_damaged_lines(tmp_path: Path, fuzz: Fuzz) -> None:
    directory = make_run(tmp_path)
    rows = directory.samples()

    def with_it(data: bytes) -> None:
        directory.samples_file.write_bytes(data)
        _shown(directory)
        found = samples_of(sweep_data(RunStore(tmp_path), SWEEP))
        if found is not None:
            samples_section(found)

    fuzz(damaged(rows).map(_as_lines), with_it, 30)
    fuzz(torn(_as_lines(rows)), with_it, 10)


@pytest.mark.slow
@pytest.mark.hostile("fuzzed records")
def test_annotations_merges_votes_and_recordings_are_read_or_a_sentence(
    tmp_path: Path, fuzz: Fuzz
) -> None:
    directory = make_run(tmp_path)
    merge = MergeDirectory(directory)
    merge.folder.mkdir(parents=True, exist_ok=True)
    votes = tmp_path / ".ftlab" / "votes.jsonl"
    votes.parent.mkdir(exist_ok=True)
    annotations = {"archived": False, "tags": ["a"], "note": "b"}

    def annotated(data: bytes) -> None:
        directory.annotations_file.write_bytes(data)
        _shown(directory)

    fuzz(damaged(annotations).map(as_json) | st.binary(max_size=40), annotated, 20)
    directory.annotations_file.unlink()
    events = [
        {"event": "start", "pid": 4194305, "process_started": 1.0, "at": 1.0},
        {"event": "phase", "phase": "load"},
        {"event": "evaluate", "done": 1, "total": 2},
        {"event": "end", "status": "failed", "reason": "no"},
    ]

    def merged(data: bytes) -> None:
        merge.events_file.write_bytes(data)
        merge.request_file.write_bytes(data)
        merge.record_file.write_bytes(data)
        merge.status()
        assert isinstance(merge.reason, str)
        merge.progress()
        assert merge.target
        merge.record()

    fuzz(damaged(events).map(_as_lines) | values().map(as_json), merged, 30)

    def recorded(data: bytes) -> None:
        (tmp_path / "provenance.json").write_bytes(data)
        read_provenance(tmp_path)

    fuzz(values().map(as_json), recorded, 12)

    def voted(data: bytes) -> None:
        for file in (votes, votes.parent / "votes" / "none.jsonl"):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
        read_votes(tmp_path, [])

    fuzz(st.lists(values(), max_size=3).map(_as_lines), voted, 12)


@pytest.mark.hostile("fuzzed records")
def test_a_damaged_grid_is_read_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    grid = GridDirectory(tmp_path / ".ftlab" / "grids" / "20261126-120000-0abc")
    grid.write_request(GridRequest(GenerateRequest(prompt="", panes=("base",)), ("a", "b")))
    request = json.loads(grid.request_file.read_bytes())
    cells = [{"prompt": 0, "pane": 0, "answer": "x"}]

    def asked(data: bytes) -> None:
        grid.request_file.write_bytes(data)
        grid.request()

    def answered(data: bytes) -> None:
        for file in (grid.cells_file, grid.process_file, grid.result_file):
            file.write_bytes(data)
        grid.cells()
        grid.status()

    fuzz(damaged(request).map(as_json), asked)
    fuzz(damaged(cells).map(_as_lines), answered)
    process = {"pid": 10**6, "started": 1.0}
    grid.result_file.unlink()

    def worked(data: bytes) -> None:
        grid.result_file.unlink(missing_ok=True)
        grid.process_file.write_bytes(data)
        grid.status()

    fuzz(damaged(process).map(as_json), worked)


@pytest.mark.hostile("fuzzed records")
def test_a_brought_adapter_s_record_is_read_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    record = {"label": "a", "method": "lora", "model": "m", "sha256": "0"}

    def with_it(data: bytes) -> None:
        (tmp_path / RECORD_FILE).write_bytes(data)
        read_record(tmp_path)

    fuzz(damaged(record).map(as_json) | st.binary(max_size=40), with_it)


@pytest.mark.hostile("fuzzed records")
@pytest.mark.parametrize("read", [load_spec, load_result, load_question, load_prediction])
def test_any_json_for_a_record_is_read_or_a_sentence(
    fuzz: Fuzz, read: Callable[[bytes], object]
) -> None:
    fuzz(values().map(as_json) | st.binary(max_size=80), read, 20)


@pytest.mark.hostile("fuzzed published results")
def test_a_damaged_published_result_is_read_or_a_sentence(fuzz: Fuzz) -> None:
    document = json.loads(PUBLISHED.read_bytes())
    fuzz(damaged(document).map(as_json), lambda data: parse_result(data, "a.json"), 30)
    fuzz(torn(PUBLISHED.read_bytes()), lambda data: parse_result(data, "a.json"), 10)


@pytest.mark.hostile("fuzzed published results")
def test_a_torn_csv_of_published_results_is_read_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    def read(data: bytes) -> None:
        for name, document in documents_of(data, "a.csv"):
            parse_result(document, name)

    fuzz(torn(PUBLISHED_CSV.read_bytes()), read, 24)

    def imported(data: bytes) -> None:
        (tmp_path / "a.csv").write_bytes(data)
        import_files([tmp_path / "a.csv"], tmp_path / "runs")

    fuzz(torn(PUBLISHED_CSV.read_bytes()), imported, 10)


def _as_lines(items: Any) -> bytes:
    items = items if isinstance(items, list) else [items]
    return b"".join(as_json(item) + b"\n" for item in items)
