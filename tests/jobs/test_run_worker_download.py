"""A run whose base model is on the Hub: fetched first, seen coming in, and no part of the measures.

The Hub is one of the tests' own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import end_process_group
from ftlab.jobs.launch import plan_sweep
from ftlab.records.progress import read_progress
from ftlab.records.run import RunDirectory
from ftlab.records.store import read_run
from tests.hub_server import PADDING, Hub, publish, serving
from tests.training import one_run
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

NAME = "tiny/llama"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return publish(tiny_model, tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with serving(Hub({NAME: published}, bytes_a_second=PADDING / 2)) as hub:
        yield hub


@pytest.fixture
def queue(tmp_path: Path, task_file: Path) -> Callable[..., list[RunDirectory]]:
    def queue(model: str = NAME) -> list[RunDirectory]:
        settings = {"steps": 1, "batch_size": 2, "eval_examples": 1}
        asked = one_run.request(Path("model"), task_file, "lora", policy="bf16", **settings)
        specs = plan_sweep(replace(asked, model=model))
        return [one_run.queued(spec, tmp_path / "runs") for spec in specs]

    return queue


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Callable[[RunDirectory], subprocess.Popen[bytes]]:
    """Starts a run's worker, as the dispatcher does."""

    def start(run: RunDirectory) -> subprocess.Popen[bytes]:
        environment = hub.environment(tmp_path / "hf") | {"FTLAB_HOME": str(tmp_path / "ftlab")}
        return subprocess.Popen(
            [sys.executable, "-m", "ftlab.jobs.run_worker", str(run.path)],
            env=os.environ | environment,
            start_new_session=True,
        )

    return start


def phases(run: RunDirectory) -> list[str]:
    return [event["phase"] for event in run.metrics() if event["event"] == "phase"]


def downloads(run: RunDirectory) -> list[dict[str, Any]]:
    return [event for event in run.metrics() if event["event"] == "download"]


def wait_for_download(run: RunDirectory, process: subprocess.Popen[bytes]) -> None:
    """Waits until a part of the model has been downloaded."""

    def is_coming_in() -> bool:
        assert process.poll() is None, "it ended first"
        events = downloads(run)
        return bool(events) and 0 < events[-1]["done"] < events[-1]["total"]

    wait_until(is_coming_in)


def test_a_download_is_seen_coming_in_and_no_part_of_what_the_run_measures(
    hub: Hub, queue: Callable[..., list[RunDirectory]],
    start: Callable[[RunDirectory], subprocess.Popen[bytes]],
) -> None:  # fmt: skip
    base, _ = queue()
    process = start(base)
    wait_for_download(base, process)
    way = read_progress(read_run(base))
    assert (way.label, way.fraction) == ("downloading", 0.0)
    assert way.download is not None
    assert 0 < way.download.done < way.download.total
    device = DeviceLock("cpu")
    assert device.try_acquire(), "others can use the device meanwhile"
    device.release()
    assert process.wait(120) == 0, base.log_tail()

    assert phases(base) == ["download", "start", "load", "evaluate"]
    events = downloads(base)
    assert (events[0]["done"], events[-1]["done"]) == (0, events[-1]["total"])
    assert all(earlier["done"] <= later["done"] for earlier, later in pairwise(events))
    took = events[-1]["elapsed"] - events[0]["elapsed"]
    assert len(events) <= 2 * took + 2, "at most twice a second"
    result = base.result()
    assert result is not None
    assert result.status == "done"
    assert result.measures.total_seconds is not None
    assert took > 1
    whole = base.metrics()[-1]["elapsed"]
    assert result.measures.total_seconds < whole - took + 0.5
    assert set(result.phases) == {"load", "evaluate"}


def test_a_model_that_the_hub_does_not_have_fails_the_run_without_torch(
    queue: Callable[..., list[RunDirectory]],
    start: Callable[[RunDirectory], subprocess.Popen[bytes]],
) -> None:
    run = queue("tiny/none")[0]
    waiting = DeviceLock("cpu")
    assert waiting.try_acquire()
    try:
        assert start(run).wait(60) == 1
    finally:
        waiting.release()
    result = run.result()
    assert result is not None
    assert result.status == "failed"
    assert result.reason == "The Hub has no model 'tiny/none' (or it is private: set HF_TOKEN)."
    assert phases(run) == [], "no device was waited for"
    assert "Traceback" in run.log_tail()


@pytest.mark.fault("Hub gone in the middle of a run's download")
def test_a_hub_that_goes_away_fails_the_run_in_one_sentence(
    hub: Hub,
    queue: Callable[..., list[RunDirectory]],
    start: Callable[[RunDirectory], subprocess.Popen[bytes]],
) -> None:
    hub.cut_after = PADDING // 2
    run = queue()[0]
    assert start(run).wait(60) == 1
    result = run.result()
    assert result is not None
    assert result.status == "failed"
    assert result.reason.startswith(f"The download of '{NAME}' stopped at ")
    assert "run it again: files that came in whole are kept." in result.reason
    assert read_progress(read_run(run)).download is None


@pytest.mark.fault("cancel while the base model is downloaded")
def test_a_cancel_ends_the_download_too(
    hub: Hub, tmp_path: Path, queue: Callable[..., list[RunDirectory]],
    start: Callable[[RunDirectory], subprocess.Popen[bytes]],
) -> None:  # fmt: skip
    hub.bytes_a_second = PADDING / 20
    run = queue()[0]
    process = start(run)
    wait_for_download(run, process)
    assert list((tmp_path / "hf").rglob("*.incomplete"))
    end_process_group(process.pid, process)
    wait_until(lambda: not list((tmp_path / "hf").rglob("*.incomplete")), 10)
