"""`python -m ftlab doctor`: its lines, its JSON, its status, and that it changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.commands.doctor import line
from ftlab.operations import doctor
from ftlab.operations.doctor import Finding
from tests.fakes import make_unreadable
from tests.processes import free_port

CHECKS = {
    "python", "libraries", "device", "torch", "runs folder", "runs disk", "cache folder",
    "cache disk", "locks folder", "bundled model", "runs", "dispatcher", "clock", "port",
}  # fmt: skip


PORT = str(free_port())


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is probed by a test of its own; the cache is this test's."""
    monkeypatch.setattr(doctor, "check_torch", lambda device: Finding("torch", "ok", "works"))
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))


def test_every_check_is_a_line_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--runs-dir", str(tmp_path / "runs"), "--port", PORT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {text[6:20].strip() for text in lines} == CHECKS
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "home").exists()


def test_a_failure_is_status_1_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("in the way")
    arguments = ["doctor", "--json", "--port", PORT, "--runs-dir", str(tmp_path / "runs")]
    assert main(arguments) == 1
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(found) == CHECKS - {"dispatcher", "clock"}, "a folder that is none has no queue"
    assert (found["runs folder"]["mark"], found["runs"]["mark"]) == ("fail", "fail")
    assert all(row["fix"] for row in found.values() if row["mark"] != "ok")


def test_warnings_alone_are_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_unreadable(tmp_path)
    assert main(["doctor", "--runs-dir", str(tmp_path), "--port", PORT]) == 0
    assert "warn  runs" in capsys.readouterr().out


def test_a_line_has_its_fix_at_the_end() -> None:
    assert line(Finding("port", "ok", "free")) == "ok    port           free"
    assert line(Finding("port", "fail", "taken", "--port")).endswith("taken  ->  --port")


@pytest.mark.slow
def test_the_doctor_itself_imports_neither_torch_nor_gradio(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ftlab.operations import doctor\n"
        f"list(doctor.examine(Path({str(tmp_path)!r}), '127.0.0.1', {PORT}))\n"
        "print(sorted({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
