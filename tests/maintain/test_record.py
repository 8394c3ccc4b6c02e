"""`record` and `import` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.maintain.__main__ import main as maintain
from ftlab.maintain.record import code_commit
from ftlab.records.published import read_published
from ftlab.records.recording import read_provenance
from tests.fakes import SWEEP, make_run, make_sweep

DATA = Path(__file__).parents[1] / "data"


def test_record_takes_the_newest_sweep_and_the_command_that_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path / "runs", seeds=(0, 1))
    out = tmp_path / "out"
    assert maintain(["record", "--runs-dir", str(tmp_path / "runs"), "-o", str(out)]) == 0
    assert f"10 runs, 30 kB, in {out / SWEEP}" in _rounded(capsys.readouterr().out)
    command = read_provenance(out / SWEEP).command
    assert command.startswith("python -m ftlab sweep --task sql --methods full,lora,qlora,")
    assert "--seeds 0,1" in command


def _rounded(text: str) -> str:
    words = text.split(", ")
    return ", ".join([words[0], "30 kB", *words[2:]]) if words[1].endswith("kB") else text


def test_record_says_which_runs_were_disturbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path / "runs", ("lora",), measures={"disturbed": True})
    maintain(["record", SWEEP, "--runs-dir", str(tmp_path / "runs"), "-o", str(tmp_path / "out")])
    assert f"the computer was busy during {SWEEP}-01-lora" in capsys.readouterr().err


def test_an_unfinished_sweep_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", status="queued")
    assert (
        maintain(["record", "--runs-dir", str(tmp_path / "runs"), "-o", str(tmp_path / "o")]) == 2
    )
    err = capsys.readouterr().err
    assert "is queued; only a sweep" in err
    assert len(err.splitlines()) == 1


def test_the_commit_is_the_one_given_or_this_checkouts(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs")
    base = ["record", "--runs-dir", str(tmp_path / "runs"), "-o", str(tmp_path / "o"), "--replace"]
    maintain([*base, "--commit", "abc"])
    assert read_provenance(tmp_path / "o" / SWEEP).commit == "abc"
    maintain(base)
    assert read_provenance(tmp_path / "o" / SWEEP).commit == code_commit()


def test_import_counts_and_status_1_says_that_a_file_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text("{}")
    files = [str(DATA), str(tmp_path / "x.json")]
    assert main(["import", *files, "--runs-dir", str(tmp_path / "runs")]) == 1
    out, err = capsys.readouterr()
    assert out == "5 results imported, 2 there already, 1 refused.\n"
    assert err == "ftlab: x.json cannot be read: run_info: Field required.\n"
    assert main(["import", str(DATA), "--runs-dir", str(tmp_path / "runs")]) == 0
    assert len(read_published(tmp_path / "runs")[0]) == 5


def test_a_sweep_that_there_is_not_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert maintain(["record", "nope", "--runs-dir", str(tmp_path)]) == 2
    assert "There is no sweep 'nope'" in capsys.readouterr().err
