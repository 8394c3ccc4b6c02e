"""Curves of many steps: bounded, with their spikes, and read without reading all again."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.records import progress
from ftlab.records.progress import MOST_BUCKETS, Later, ProgressBook, ThinCurve, read_progress
from ftlab.records.store import Run, read_run
from tests.fakes import make_run

LONG = 100_000


def curve_of(values: dict[int, float]) -> ThinCurve:
    curve = ThinCurve()
    for step, value in values.items():
        curve.add(step, value)
    return curve


def test_a_short_curve_is_kept_as_it_is() -> None:
    values = {step: 1 / step for step in range(1, MOST_BUCKETS)}
    assert curve_of(values).points() == tuple(values.items())
    assert curve_of(values).points(whole=False) == tuple(values.items())


def test_of_a_long_curve_every_spike_and_both_ends_are_kept() -> None:
    values = {step: 2.0 + 0.001 * (step % 7) for step in range(1, LONG + 1)}
    spikes = {1: 9.0, 77: 0.5, 12_345: 30.0, 50_000: -1.0, 50_001: 31.0, LONG: 3.0}
    kept = dict(curve_of(values | spikes).points())
    assert len(kept) <= 2 * MOST_BUCKETS + 2
    assert {step: kept.get(step) for step in spikes} == spikes
    assert all(kept[step] == (values | spikes)[step] for step in kept), "no point is made up"


def test_a_value_that_is_no_number_stays_a_gap() -> None:
    values = dict.fromkeys(range(1, 10001), 1.0) | {5_000: math.nan}
    assert [step for step, value in curve_of(values).points() if math.isnan(value)] == [5_000]


def test_the_curve_of_a_long_open_run_changes_once_a_bucket() -> None:
    curve = curve_of(dict.fromkeys(range(1, LONG + 1), 1.0))
    drawn = {curve.points(whole=False)}
    for step in range(LONG + 1, LONG + 1001):
        curve.add(step, 1.0)
        drawn.add(curve.points(whole=False))
    assert 2 <= len(drawn) <= 6
    assert curve.points()[-1] == (LONG + 1000, 1.0)


@pytest.mark.parametrize("again", [1, 40, 7_000])
def test_steps_that_come_again_take_the_place_of_the_first(again: int) -> None:
    curve = curve_of(dict.fromkeys(range(1, 8001), 1.0))
    for step in range(again, 8_101):
        curve.add(step, 2.0)
    assert {value for step, value in curve.points() if step < again} <= {1.0}
    assert {value for step, value in curve.points() if step >= again} == {2.0}
    assert curve.points()[-1] == (8_100, 2.0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(make_run(tmp_path, "lora", "running", steps=LONG, losses=[3.0, 2.0, 1.0]))


def append(run: Run, *events: dict[str, object], end: str = "\n") -> None:
    text = "\n".join(json.dumps(event) for event in events) + end
    with run.directory.metrics_file.open("a", encoding="utf-8") as file:
        file.write(text)


def step(number: int, loss: float = 1.0) -> dict[str, object]:
    times = {"seconds": 0.5, "elapsed": 2 + number / 2}
    return {"event": "step", "step": number, "loss": loss} | times


def test_only_new_lines_are_parsed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ProgressBook()
    append(run, *(step(number) for number in range(4, 1001)))
    assert book.read(run).step == 1000
    parsed: list[object] = []
    real = json.loads
    monkeypatch.setattr(progress.json, "loads", lambda line: parsed.append(line) or real(line))
    assert book.read(run).step == 1000
    assert parsed == []
    append(run, step(1001), step(1002))
    assert book.read(run).step == 1002
    assert len(parsed) == 2


def test_reading_new_lines_gives_the_same_as_reading_all_at_once(run: Run) -> None:
    book = ProgressBook()
    for number in range(4, 60):
        append(run, step(number, 1 / number))
        book.read(run)
    append(run, {"event": "phase", "phase": "evaluate", "elapsed": 40.0})
    append(run, {"event": "evaluate", "done": 5, "total": 20, "elapsed": 45.0})
    way = book.read(run, Later(9.0))
    assert way == read_progress(run, Later(9.0))
    assert (way.phase, way.step, way.loss) == ("evaluate", 59, 1 / 59)
    assert way.eta_seconds == pytest.approx(15.0)
    assert way.losses == read_progress(replace(run, status="done")).losses


def test_measuring_answering_is_the_last_quarter_of_the_bar_and_of_the_time_that_is_left(
    run: Run,
) -> None:
    settings = replace(run.spec.settings, measure_answering=True)
    run = replace(run, spec=replace(run.spec, settings=settings))
    book, later = ProgressBook(), Later(evaluation=9.0, answering=60.0)
    append(run, step(LONG))
    way = book.read(run, later)
    assert (way.fraction, way.eta_seconds) == (pytest.approx(0.6), 69.0)
    append(run, {"event": "phase", "phase": "evaluate", "elapsed": 40.0})
    append(run, {"event": "evaluate", "done": 20, "total": 20, "elapsed": 50.0})
    way = book.read(run, later)
    assert (way.fraction, way.eta_seconds) == (pytest.approx(0.75), 60.0)
    append(run, {"event": "phase", "phase": "answering", "elapsed": 50.0})
    assert book.read(run, later).eta_seconds == 60.0
    append(run, {"event": "answering", "done": 1, "total": 3, "elapsed": 62.0})
    way = book.read(run, later)
    assert way.label == "measuring answering"
    assert (way.fraction, way.eta_seconds) == (pytest.approx(0.75 + 0.25 / 3), pytest.approx(24.0))


@pytest.mark.fault("torn last line of metrics.jsonl")
def test_a_torn_line_waits_for_its_end(run: Run) -> None:
    book = ProgressBook()
    append(run, step(4), end="")
    assert book.read(run).step == 3
    append(run, end="\n")
    assert book.read(run).step == 4
    append(run, end='{"event": "step", "st')
    assert book.read(run).step == 4


@pytest.mark.parametrize("line", ["", "nonsense", "[1]", "null", '"text"', '{"event": 3}'])
def test_a_line_that_is_no_event_is_skipped(run: Run, line: str) -> None:
    append(run, end=line + "\n")
    append(run, step(4))
    assert ProgressBook().read(run).step == 4


@pytest.mark.fault("metrics.jsonl replaced while it is followed")
def test_a_file_that_was_replaced_or_cut_is_read_anew(run: Run, tmp_path: Path) -> None:
    book = ProgressBook()
    assert book.read(run).step == 3
    first = run.directory.metrics_file.read_text().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(first[:4]))
    os.replace(other, run.directory.metrics_file)
    assert book.read(run).step == 1
    run.directory.metrics_file.write_text("".join(first[:3]))
    assert book.read(run).step == 0
    run.directory.metrics_file.unlink()
    assert book.read(run).phase == ""


def test_only_so_many_runs_are_remembered(tmp_path: Path) -> None:
    book = ProgressBook(most=3)
    runs = [read_run(make_run(tmp_path, "lora", "running")) for _ in range(5)]
    assert [book.read(run).step for run in runs] == [15] * 5
    assert len(book._followed) == 3
