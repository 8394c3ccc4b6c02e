"""The `report` command: what it writes, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ftlab.__main__ import main
from tests.fakes import SWEEP, make_run, make_sweep, make_unreadable

Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_sweep(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Report:
    """Runs the command on the runs folder; returns its status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(["report", *arguments, "--runs-dir", str(tmp_path / "runs")])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_report_is_written_and_its_finding_printed(
    report: Report, runs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    status, out, err = report(SWEEP, "-o", str(path), "--variant", "QLoRA")
    assert (status, err) == (0, "")
    assert out.startswith("QLoRA trained this model with 41 % less memory")
    assert f"{path} (5." in out
    assert "<h1>QLoRA trained this model with 41 % less memory" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["png", "svg", "PNG"])
def test_the_card_is_written_beside_it(
    report: Report, runs: Path, tmp_path: Path, kind: str
) -> None:
    card = tmp_path / f"card.{kind}"
    status, _, _ = report(SWEEP, "-o", str(tmp_path / "a.html"), "--card", str(card))
    assert status == 0
    if kind == "svg":
        assert card.read_text(encoding="utf-8").startswith("<svg ")
    else:
        assert Image.open(card).size == (1600, 900)


@pytest.mark.slow
def test_the_shipped_sweep_can_be_reported(
    report: Report, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "20260101-000000-aaaa"
    make_sweep(tmp_path / "recorded" / other, sweep_id=other)
    monkeypatch.setattr("ftlab.commands.report.recorded_folder", lambda: tmp_path / "recorded")
    path = tmp_path / "out.html"
    assert report(other, "-o", str(path))[0] == 0
    assert "It is not measured on this machine" in path.read_text() or "no recording" in (
        path.read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["20260101-000000-0000"], "There is no sweep '20260101-000000-0000'"),
        ([SWEEP, "-o", "{tmp}"], "is a folder; name a file in it"),
        ([SWEEP, "-o", "{tmp}/none/out.html"], "none' does not exist"),
        ([SWEEP, "-o", "{tmp}/file/out.html"], "does not exist"),
        ([SWEEP, "-o", "{tmp}/pipe"], "is no file that can be replaced"),
        ([SWEEP, "-o", "/proc/out.html"], "cannot be written"),
        ([SWEEP, "-o", "{tmp}/spec.json"], "end it with .html or .htm"),
        ([SWEEP, "--card", "{tmp}/card.gif"], "end it with .png or .svg"),
        ([SWEEP, "--card", "{tmp}/none/card.png"], "does not exist"),
        ([SWEEP, "--variant", "DoRA"], "done are: Full fine-tuning, LoRA, QLoRA, Prompt tuning."),
        ([], "required: SWEEP"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    report: Report, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], part: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    status, out, err = report(*(text.replace("{tmp}", str(tmp_path)) for text in arguments))
    assert (status, out) == (2, "")
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(
    report: Report, runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    status, _, err = report(SWEEP, "-o", str(folder / "out.html"))
    assert status == 2
    assert "cannot be written (Permission denied)" in err


def test_a_sweep_with_nothing_done_is_refused_and_nothing_is_written(
    report: Report, tmp_path: Path
) -> None:
    make_sweep(tmp_path / "runs", status="failed")
    path = tmp_path / "out.html"
    status, _, err = report(SWEEP, "-o", str(path))
    assert status == 2
    assert "is done (4 failed), so there is nothing to report" in err
    assert not path.exists()


def test_what_cannot_be_read_is_named_and_the_rest_is_reported(
    report: Report, runs: Path, tmp_path: Path
) -> None:
    make_unreadable(runs, f"{SWEEP}-09-lora")
    path = tmp_path / "out.html"
    status, _, err = report(SWEEP, "-o", str(path))
    assert status == 0
    assert f"ftlab: {SWEEP}-09-lora cannot be read and is left out" in err
    assert f"{SWEEP}-09-lora cannot be read" in path.read_text(encoding="utf-8")


def test_a_link_stays_and_its_target_is_written(report: Report, runs: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_text("old")
    link.symlink_to(target)
    assert report(SWEEP, "-o", str(link))[0] == 0
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_halves_of_characters_in_a_record_do_not_keep_it_from_being_written(
    report: Report, tmp_path: Path
) -> None:
    make_run(
        tmp_path / "runs", "lora", samples=[{"prompt": "p", "reference": "r", "answer_after": "x"}]
    )
    samples = next((tmp_path / "runs").glob("*-lora")) / "samples.jsonl"
    samples.write_text(samples.read_text().replace('"x"', '"\\ud83d"'))
    assert report(SWEEP, "-o", str(tmp_path / "out.html"))[0] == 0
