"""What was expected of a run: kept beside it, what is left of it in each phase, and the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.records.expected import Expected, read_expected, with_expected, write_expected
from ftlab.records.progress import (
    Later,
    ProgressBook,
    busy_seconds,
    later_of,
    pace_of,
    read_progress,
    resumed_seconds,
    seconds_together,
    sweep_eta,
)
from ftlab.records.result import Measures, PhaseMeasure, RunResult, dump_result
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, read_run
from tests.fakes import make_checkpoint, make_run

EXPECTED = Expected(train=40, evaluate=20, other=10, between=5)


@pytest.fixture
def queued(tmp_path: Path) -> RunDirectory:
    run = make_run(tmp_path, "lora", "queued", steps=4)
    write_expected(run, EXPECTED)
    return run


def phase(name: str, elapsed: float) -> dict[str, Any]:
    return {"event": "phase", "phase": name, "elapsed": elapsed}


def step(number: int, elapsed: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": 1.0, "seconds": 12.0, "elapsed": elapsed}


EVENTS: tuple[tuple[dict[str, Any], float], ...] = (
    ({"event": "start", "elapsed": 0.0}, 70),
    (phase("wait", 1.0), 70),
    (phase("load", 101.0), 70 - 0),
    (phase("train", 104.0), 70 - 3),
    (step(1, 120.0), 3 * 12 + 20),
    (step(4, 160.0), 20),
    (phase("save", 161.0), 20),
    (phase("evaluate", 162.0), 20),
    ({"event": "evaluate", "done": 16, "total": 64, "elapsed": 166.0}, 12),
    ({"event": "evaluate", "done": 64, "total": 64, "elapsed": 178.0}, 5),
)
"""What a run reports, and the seconds left after it."""


def test_each_phase_of_a_run_says_what_is_left_of_it(queued: RunDirectory) -> None:
    """Waiting for the device takes 100 s, which are not the run's own."""
    book = ProgressBook()
    assert book.read(read_run(queued)).left_seconds == 70 + 5
    with queued.metrics_file.open("a") as file:
        for event, left in EVENTS:
            file.write(json.dumps(event) + "\n")
            file.flush()
            assert book.read(read_run(queued)).left_seconds == pytest.approx(left), event


def test_a_run_that_is_resumed_takes_the_steps_after_its_checkpoint_again(
    queued: RunDirectory,
) -> None:
    assert resumed_seconds(read_run(queued)) is None  # it has no checkpoint
    make_checkpoint(queued, 1)
    assert resumed_seconds(read_run(queued)) is None  # nor a pace of its own
    queued.metrics_file.write_text("".join(json.dumps(event) + "\n" for event, _ in EVENTS[:6]))
    start, steps, scoring = 10, 3 * 12, 20
    assert resumed_seconds(read_run(queued)) == start + steps + scoring
    assert resumed_seconds(read_run(queued), Later(evaluation=7.0)) == start + steps + 7
    queued.expected_file.unlink()
    assert resumed_seconds(read_run(queued)) is None
    assert resumed_seconds(read_run(queued), Later(evaluation=7.0)) == steps + 7


def test_the_sum_of_a_sweep_that_has_just_begun_is_that_of_its_runs(tmp_path: Path) -> None:
    for method in ("lora", "full", "ia3"):
        write_expected(make_run(tmp_path, method, "queued"), EXPECTED)
    runs = RunStore(tmp_path).runs()
    assert sweep_eta(runs, [read_progress(run) for run in runs]) == 3 * 75


@pytest.mark.parametrize(("devices", "seconds"), [(1, 100), (2, 50), (3, 40), (8, 40)])
def test_runs_that_share_devices_end_when_the_last_has_had_the_next_that_is_free(
    devices: int, seconds: float
) -> None:
    assert seconds_together([10, 20, 30, 40], devices) == seconds
    assert seconds_together([], devices) == 0


TWO = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("runs", "busy"),
    [
        ([], {}),
        ([("running", "cuda:1", (), 600)], {"cuda:1": 600}),
        ([("running", "cuda:1", TWO, 600)], {"cuda:1": 600}),
        ([("queued", "cuda:0", (), 600)] * 4, {"cuda:0": 2400}),
        ([("queued", "cuda:0", TWO, 600)] * 4, {"cuda:0": 1200, "cuda:1": 1200}),
        (
            [
                ("running", "cuda:0", TWO, 500),
                ("queued", "cuda:0", TWO, 100),
                ("queued", "cuda:0", TWO, 300),
                ("queued", "cuda:0", TWO, 250),
            ],
            {"cuda:0": 600, "cuda:1": 550},
        ),
    ],
)
def test_a_device_is_busy_with_its_own_run_and_with_those_that_begin_on_it(
    runs: list[tuple[Any, str, tuple[str, ...], float]], busy: dict[str, float], tmp_path: Path
) -> None:
    left = []
    for status, device, devices, seconds in runs:
        directory = make_run(tmp_path, "lora", status, device=device)
        directory.complete_spec(replace(directory.spec(), devices=devices))
        left.append((read_run(directory), seconds))
    assert busy_seconds(left) == busy


def test_what_is_left_of_a_sweep_on_two_devices_counts_both(tmp_path: Path) -> None:
    for method in ("lora", "full", "ia3"):
        directory = make_run(tmp_path, method, "queued")
        directory.complete_spec(replace(directory.spec(), devices=("cuda:0", "cuda:1")))
        write_expected(directory, EXPECTED)
    runs = RunStore(tmp_path).runs()
    assert sweep_eta(runs, [read_progress(run) for run in runs]) == 2 * 75


def test_runs_that_ended_correct_what_is_expected_of_the_others(tmp_path: Path) -> None:
    for method, took in (("lora", 100.0), ("full", 200.0)):
        make_run(tmp_path, method, measures={"total_seconds": took, "predicted_total_seconds": 100})
    base = {"total_seconds": 900.0, "predicted_total_seconds": 100}
    make_run(tmp_path, "base", measures=base)
    runs = RunStore(tmp_path).runs()
    assert pace_of(runs) == 1.5
    assert pace_of(runs[:0]) == 1


def test_later_phases_take_as_long_as_the_longest_of_the_runs_that_ended(tmp_path: Path) -> None:
    for method, evaluation, answering in (("lora", 30.0, 5.0), ("full", 50.0, 3.0)):
        directory = make_run(tmp_path, method, measures={"predicted_total_seconds": None})
        result = directory.result()
        assert result is not None
        phases = {"evaluate": PhaseMeasure(evaluation), "answering": PhaseMeasure(answering)}
        directory.result_file.write_bytes(dump_result(replace(result, phases=phases)))
    make_run(tmp_path, "qlora", "queued")
    assert later_of(RunStore(tmp_path).runs()) == Later(50.0, 5.0, 1.0)


def test_an_open_run_of_which_nothing_is_known_takes_the_mean_of_those_that_ended(
    tmp_path: Path,
) -> None:
    for method, took in (("base", 900.0), ("lora", 40.0), ("full", 70.0)):
        directory = make_run(tmp_path, method, measures={"total_seconds": took})
    result = directory.result()
    assert result is not None
    phases = {"answering": PhaseMeasure(8.0)}  # the total does not have it
    directory.result_file.write_bytes(dump_result(replace(result, phases=phases)))
    for method in ("qlora", "ia3"):
        make_run(tmp_path, method, "queued")
    runs = RunStore(tmp_path).runs()
    progress = [read_progress(run) for run in runs]
    assert sweep_eta(runs, progress) == 2 * (40 + 70 + 8) / 2
    assert sweep_eta(runs[-1:], progress[-1:]) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"train": -1}', '{"train": NaN}', '{"train": "x"}']
)
def test_a_torn_file_expects_nothing(queued: RunDirectory, text: str) -> None:
    queued.expected_file.write_text(text)
    assert read_expected(queued) is None
    assert read_progress(read_run(queued)).left_seconds is None
    result = RunResult("done", measures=Measures(total_seconds=81.0))
    assert with_expected(result, queued) == result


def test_the_result_holds_what_was_expected_beside_what_was_measured(queued: RunDirectory) -> None:
    result = with_expected(RunResult("done", measures=Measures(total_seconds=81.0)), queued)
    measures: Mapping[str, Any] = vars(result.measures)
    assert (measures["total_seconds"], measures["predicted_total_seconds"]) == (81.0, 70.0)
