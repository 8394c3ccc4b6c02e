"""A closed runs folder: whatever writes to one says why it does not, and has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import note_cancel, request_cancel, start_dispatcher
from ftlab.jobs.launch import enqueue_again, enqueue_sweep
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.grid import GridRequest, start_grid
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.uploaded import forget_adapter, upload_adapter
from ftlab.playground.votes import Vote, record_vote
from ftlab.records.published import import_files, remove_published
from ftlab.records.removal import remove_runs
from ftlab.records.run import Annotations, check_writable, make_read_only, write_annotations
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.share.merge_control import start_merge
from ftlab.tabs.experiment.task import keep_upload
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run
from tests.security.servers import tree

WHY = "This folder takes nothing; use another."
RUN = "20261125-120000-ab12-01-lora"
ASKED = SweepRequest("bundled", TaskReference("bundled", "sql"), (Variant("lora"),))
VOTE = Vote(
    panes=("base", "shipped:sql"), labels=("Base", "SQL"), winner=0, prompt="p",
    answers=("a", "b"), model=BUNDLED_ID, precision="bf16", sweep_ids=(),
)  # fmt: skip

WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "launch a sweep": lambda runs, file: enqueue_sweep(ASKED, runs),
    "run again": lambda runs, file: enqueue_again([RunStore(runs).find(RUN).spec], runs),
    "start a dispatcher": lambda runs, file: start_dispatcher(runs),
    "cancel a run": lambda runs, file: request_cancel(runs, [RUN]),
    "note a cancel": lambda runs, file: note_cancel(runs, [RUN]),
    "annotate a run": lambda runs, file: write_annotations(
        RunStore(runs).find(RUN).directory, Annotations(note="x")
    ),
    "delete a run": lambda runs, file: remove_runs(runs, [RUN]),
    "import results": lambda runs, file: import_files([file], runs),
    "remove imported results": lambda runs, file: remove_published(runs, ["x"]),
    "keep an upload": lambda runs, file: keep_upload(file, runs),
    "bring an adapter": lambda runs, file: upload_adapter(file, runs),
    "forget an adapter": lambda runs, file: forget_adapter(runs, "adapter:x"),
    "start a grid": lambda runs, file: start_grid(
        GridRequest(GenerateRequest(panes=("base",), prompt=""), ("a",)), runs
    ),
    "vote": lambda runs, file: record_vote(runs, VOTE),
    "merge": lambda runs, file: start_merge(RunStore(runs).find(RUN)),
}


@pytest.mark.hostile("changes to a closed folder")
@pytest.mark.parametrize("name", WRITERS)
def test_a_closed_folder_says_why_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    runs, file = tmp_path / "runs", tmp_path / "file.csv"
    file.write_text("prompt,completion\na,b\n")
    make_run(runs, "lora", run_id=RUN)
    make_read_only(runs, WHY)
    before = tree(runs)
    with pytest.raises(FtlabError, match=WHY):
        WRITERS[name](runs, file)
    assert tree(runs) == before


def test_a_folder_that_nobody_closed_is_open(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "not-there-yet")
    (tmp_path / "file").touch()
    check_writable(tmp_path / "file")
