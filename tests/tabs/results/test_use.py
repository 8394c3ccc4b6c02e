"""What a run that is opened offers: zip, merge, script, and the command that uploads it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import default_runs_folder
from ftlab.basics.processes import WorkerEnded, start_time
from ftlab.records.merge import MergeDirectory, MergeRecord
from ftlab.records.store import Run, RunStore, read_run
from ftlab.share import bundle, gguf_control
from ftlab.tabs.results import actions as results_use
from ftlab.tabs.results.actions import gguf_file, push_command, script_file, use_view, zip_file
from tests.fakes import DEAD_PID, make_run, make_sweep
from tests.share.test_merge_process import with_adapter

NAMES = ("block", "zip", "about_zip", "merge", "cancel", "merged", "gguf", "about_merge",
         "pack", "adapters", "about_pack", "script", "about_script", "command",
         "timer")  # fmt: skip


def view(folder: Path, run_id: str, recorded: Path | None = None) -> dict[str, Any]:
    return dict(zip(NAMES, use_view(RunStore(folder, recorded), run_id), strict=True))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(results_use, "get_upload_folder", lambda: str(tmp_path / "served"))
    return with_adapter(tmp_path)


def begin_merge(run: Run, pid: int, started: float | None) -> MergeDirectory:
    merge = MergeDirectory(run.directory)
    merge.folder.mkdir()
    merge.write_request(run.directory.merged)
    merge.report({"event": "start", "pid": pid, "process_started": started})
    return merge


def test_a_finished_run_offers_everything(run: Run, tmp_path: Path) -> None:
    seen = view(tmp_path, run.run_id)
    assert seen["block"].visible
    assert all(seen[name].interactive for name in ("zip", "merge", "script"))
    assert "9.8 MB" in seen["about_zip"]
    assert f"push {run.run_id} --repo OWNER/NAME" in seen["command"].value
    assert not seen["timer"].active
    assert not seen["merged"].visible
    assert not seen["gguf"].visible


def test_a_recorded_run_says_that_it_has_no_weights_but_has_a_script(tmp_path: Path) -> None:
    *_, run = make_sweep(tmp_path / "recorded" / "x", ("lora",))
    seen = view(tmp_path / "runs", run.run_id, tmp_path / "recorded")
    assert seen["zip"].value == "No weights"
    assert not seen["zip"].interactive
    assert "ships with ftlab, without its weights" in seen["about_zip"]
    assert not seen["merge"].interactive
    assert seen["script"].interactive
    assert not seen["command"].visible


def test_a_base_run_and_one_that_is_no_run_offer_nothing(tmp_path: Path) -> None:
    base = make_run(tmp_path, "base")
    seen = view(tmp_path, base.run_id)
    assert not seen["zip"].interactive
    assert not seen["script"].interactive
    gone = view(tmp_path, "../../etc")
    assert not gone["block"].visible
    assert not gone["timer"].active


def test_a_soft_prompt_says_why_it_cannot_be_merged(run: Run, tmp_path: Path) -> None:
    (run.directory.adapter / "adapter_config.json").write_text('{"peft_type": "P_TUNING"}')
    seen = view(tmp_path, run.run_id)
    assert not seen["merge"].interactive
    assert "no change of a weight" in seen["about_merge"]


def test_an_open_merge_is_followed_and_can_only_be_cancelled(run: Run, tmp_path: Path) -> None:
    merge = begin_merge(run, os.getpid(), start_time(os.getpid()))
    merge.report({"event": "phase", "phase": "merge"})
    seen = view(tmp_path, run.run_id)
    assert seen["timer"].active
    assert not seen["merge"].visible
    assert seen["cancel"].visible
    assert "Merging …" in seen["about_merge"]
    merge.end("failed", "No room for <it>.")
    seen = view(tmp_path, run.run_id)
    assert "Not merged: No room for &lt;it&gt;." in seen["about_merge"]
    assert seen["merge"].visible


def test_a_merged_model_shows_both_scores_and_can_be_downloaded(run: Run, tmp_path: Path) -> None:
    merge = MergeDirectory(run.directory)
    merge.write_record(
        MergeRecord(
            "bf16", 269_000_000, 31.0, 0.0, device="CPU", score_before_merge=0.71,
            score_after_merge=0.70, score_gain=(-0.01, -0.03, 0.01), loss_before_merge=1.31,
            loss_after_merge=1.312,
        )
    )  # fmt: skip
    assert not view(tmp_path, run.run_id)["merged"].visible, "it was saved somewhere else"
    run.directory.merged.mkdir()
    (run.directory.merged / "model.safetensors").write_bytes(b"")
    seen = view(tmp_path, run.run_id)
    assert seen["merged"].visible
    assert seen["gguf"].visible
    assert "Score 0.71 before merging, 0.70 after (-0.01, 95 % interval" in seen["about_merge"]
    assert "269 MB in bf16" in seen["about_merge"]


def test_the_zip_of_the_page_holds_no_path_and_replaces_the_one_before(
    run: Run, tmp_path: Path
) -> None:
    store = RunStore(tmp_path)
    paths = {zip_file(run, store), zip_file(run, store)}
    assert len(paths) == 1
    with zipfile.ZipFile(paths.pop()) as archive:
        assert all(str(tmp_path).encode() not in archive.read(name) for name in archive.namelist())


def test_the_script_is_made_in_a_process_and_its_refusal_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(command: list[str], **_: Any) -> str:
        assert run.run_id in command
        Path(command[command.index("-o") + 1], "reproduce.py").write_text("print('hello')")
        return ""

    def refused(command: list[str], **_: Any) -> str:
        raise WorkerEnded(2, last="ftlab: The data have changed.")

    monkeypatch.setattr(bundle, "answer_once", made)
    with zipfile.ZipFile(script_file(run, RunStore(tmp_path))) as archive:
        (name,) = archive.namelist()
        assert name.endswith("-script/reproduce.py")
    monkeypatch.setattr(bundle, "answer_once", refused)
    with pytest.raises(FtlabError, match="No script: The data have changed"):
        script_file(run, RunStore(tmp_path))


def test_the_command_names_the_runs_folder_only_where_it_is_another(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push_command(RunStore(default_runs_folder()), run).endswith("OWNER/NAME")
    monkeypatch.chdir(tmp_path.parent)
    command = push_command(RunStore(tmp_path), run)
    assert command.endswith(f"--runs-dir {tmp_path.name}")


def test_an_interrupted_merge_leaves_a_way_on(run: Run, tmp_path: Path) -> None:
    begin_merge(run, DEAD_PID, 1.0)
    seen = view(tmp_path, read_run(run.directory).run_id)
    assert seen["merge"].visible
    assert seen["merge"].interactive
    assert "ended without a result" in seen["about_merge"]


def test_the_gguf_file_is_made_in_a_process_and_its_refusal_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(command: list[str], **_: Any) -> str:
        assert run.run_id in command
        Path(command[command.index("-o") + 1]).write_bytes(b"GGUF")
        return ""

    def refused(command: list[str], **_: Any) -> str:
        raise WorkerEnded(2, last="ftlab: mamba is not written as GGUF.")

    monkeypatch.setattr(gguf_control, "answer_once", made)
    file = gguf_file(run, RunStore(tmp_path))
    assert file.read_bytes() == b"GGUF"
    assert file.name.endswith("-merged-f16.gguf")
    monkeypatch.setattr(gguf_control, "answer_once", refused)
    with pytest.raises(FtlabError, match="No GGUF: mamba is not written as GGUF"):
        gguf_file(run, RunStore(tmp_path))
