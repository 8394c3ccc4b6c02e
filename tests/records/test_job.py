"""What merges and prompt grids have in common: their status, their beginning and their end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftlab.records.job import CANCELLED, StartedJob
from ftlab.records.merge import MergeDirectory
from tests.fakes import DEAD_PID, make_run
from tests.playground.grid.fakes import make_grid


@pytest.fixture(params=["merge", "prompt grid"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> StartedJob:
    """One that was asked for, and whose process has not begun."""
    if request.param == "prompt grid":
        return make_grid(tmp_path)
    merge = MergeDirectory(make_run(tmp_path))
    assert merge.status() == "none"
    merge.folder.mkdir()
    merge.write_request(merge.run.merged)
    return merge


def test_a_job_is_queued_until_its_process_begins_and_begins_once(job: StartedJob) -> None:
    assert job.status() == "queued"
    assert job.begin()
    assert (job.status(), job.reason) == ("running", "")
    assert not job.begin()


def test_a_process_that_never_spoke_leaves_the_job_interrupted(job: StartedJob) -> None:
    hour_ago = time.time() - 3600
    os.utime(job.request_file, (hour_ago, hour_ago))
    assert job.status() == "interrupted"


@pytest.mark.parametrize("pid", [DEAD_PID, os.getpid()], ids=["dead", "another"])
def test_a_process_that_is_gone_leaves_the_job_interrupted(job: StartedJob, pid: int) -> None:
    job.write_worker(pid, 1.0)
    assert job.status() == "interrupted"
    assert "ended without a result; log.txt has its last lines" in job.reason


def test_a_queued_job_that_is_cancelled_never_begins(job: StartedJob) -> None:
    job.cancel()
    assert (job.status(), job.reason) == ("cancelled", CANCELLED)
    assert not job.begin()


def test_the_first_end_of_a_job_stays(job: StartedJob) -> None:
    job.end("failed", "The disk is full.")
    job.cancel()
    job.give_up("cancelled", CANCELLED)
    assert (job.status(), job.reason) == ("failed", "The disk is full.")
