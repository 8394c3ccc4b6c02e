"""Many adapters on one base, measured: what is refused, what is measured, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock
from ftlab.models.reference import parse_model
from ftlab.playground import engine, serving, serving_measure
from ftlab.playground.serving import Progress, ServingRequest, check, measure
from ftlab.playground.serving_measure import Measurement
from ftlab.playground.serving_worker import answer
from tests.playground.conftest import AddRun

COUNTS = (1, 3)


def said_by(runs: Path, request: ServingRequest) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    answer(request, runs, resolve_device("cpu"), said.append)
    return said


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("full", {}, "has no adapter that could be loaded many times"),
        ("lora", {"counts": ()}, "The counts are empty"),
        ("lora", {"counts": (0, 2)}, "The counts are 0,2; give ascending whole numbers from 1 to"),
        ("lora", {"counts": (4, 2)}, "The counts are 4,2"),
        ("lora", {"counts": (2, 2)}, "The counts are 2,2"),
        ("lora", {"counts": (65,)}, "The counts are 65"),
        ("lora", {"new_tokens": 0}, "An answer of 0 tokens cannot be measured; give 1 to 256"),
        ("lora", {"precision": "int3"}, "The precision is int3; it must be one of"),
    ],
)
def test_what_cannot_be_measured_is_named_with_the_rule(
    add_run: AddRun, runs_folder: Path, method: str, changes: dict[str, Any], words: str
) -> None:
    pane = add_run(method).run_id
    with pytest.raises(FtlabError, match=words):
        check(replace(ServingRequest(pane), **changes), runs_folder)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "dora"])
def test_adapters_and_full_models_are_measured_at_each_count(
    add_run: AddRun, runs_folder: Path, tiny_model: Path, method: str, one_thread: None
) -> None:
    pane = add_run(method).run_id
    said = said_by(runs_folder, ServingRequest(pane, COUNTS, "fp32", new_tokens=3))
    assert said[0]["seconds"] > 0, "the time is said before the work"
    assert len([line for line in said if "words" in line]) == 1 + 2 * len(COUNTS)
    assert said[-2]["seconds"] == 0, "and then what is left of it"
    record = serving._RECORD.validate_python(said[-1]["record"])
    assert (record.model, record.method) == (parse_model(str(tiny_model)).name, method)
    assert record.file_bytes > (runs_folder / pane / "adapter/adapter_config.json").stat().st_size
    for points in (record.adapters, record.full_models):
        assert [point.count for point in points] == list(COUNTS)
        assert all(point.answer_seconds > 0 for point in points)
        assert all(point.memory_bytes is not None for point in points)
        assert points[0].load_seconds < points[1].load_seconds
    assert record.stopped == ""


def test_the_full_models_end_where_the_memory_does(
    add_run: AddRun, runs_folder: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    pane = add_run("lora").run_id
    made: list[object] = []
    own_model = Measurement._own_model

    def counted(self: Measurement) -> object:
        made.append(own_model(self))
        return made[-1]

    monkeypatch.setattr(Measurement, "_own_model", counted)
    monkeypatch.setattr(
        serving_measure, "free_on", lambda device: 1 << 40 if len(made) < 3 else engine.SPARE_BYTES
    )
    counts = (1, 2, 4, 8, 16)
    said = said_by(runs_folder, ServingRequest(pane, counts, "fp32", new_tokens=1))
    record = serving._RECORD.validate_python(said[-1]["record"])
    assert len(record.adapters) == 5
    assert [point.count for point in record.full_models] == [1, 2]
    assert record.stopped == "there is no memory for more than 3 full models"


def test_damaged_weights_are_a_sentence(add_run: AddRun, runs_folder: Path) -> None:
    run = add_run("lora")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"torn")
    (said,) = [line for line in said_by(runs_folder, ServingRequest(run.run_id)) if "error" in line]
    assert "cannot be put on" in said["error"]


@pytest.mark.slow
def test_it_waits_for_the_device_and_tells_what_is_done(add_run: AddRun, runs_folder: Path) -> None:
    pane = add_run("lora").run_id
    told: list[Progress] = []
    training = DeviceLock("cpu")
    assert training.try_acquire()

    def tell(progress: Progress) -> None:
        told.append(progress)
        if "waiting" in progress.words:
            training.release()

    request = ServingRequest(pane, COUNTS, "fp32", new_tokens=2, full_models=False)
    record = measure(request, runs_folder, tell)
    assert [point.count for point in record.adapters] == list(COUNTS)
    assert record.full_models == ()
    assert "waiting" in told[0].words
    assert told[-1].left_seconds is not None


def test_a_process_that_dies_is_an_error_that_names_its_log(
    add_run: AddRun, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = add_run("lora").run_id
    monkeypatch.setattr(serving, "WORKER", "tests.playground.no_such_worker")
    with pytest.raises(
        FtlabError, match=r"ended before its time: exit status 1; see .*serving\.log"
    ):
        measure(ServingRequest(pane), runs_folder, lambda progress: None)
