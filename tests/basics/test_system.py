"""Systems that have less than Linux: macOS has no /proc, Windows no POSIX locks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.basics import system
from ftlab.basics.processes import boot_id, python_environment, start_time
from ftlab.jobs.launch import plan_sweep
from ftlab.records.run import RunDirectory
from tests.training.one_run import request

_LIKE_MACOS = """
import os, pathlib
import psutil

def absent(whole, place=0):
    def call(*given, **named):
        if str(given[place]).startswith(("/proc", "/sys/fs")):
            raise FileNotFoundError(2, "No such file or directory", str(given[place]))
        return whole(*given, **named)
    return call

for name in ("read_text", "write_text", "read_bytes", "open", "stat"):
    setattr(pathlib.Path, name, absent(getattr(pathlib.Path, name)))
os.listdir = absent(os.listdir)
del os.sched_getaffinity, os.sched_setaffinity, psutil.Process.cpu_affinity
"""


@pytest.fixture
def like_macos(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python finds no /proc and no CPU affinity."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_LIKE_MACOS)
    known = python_environment()
    return known | {"PYTHONPATH": f"{folder}{os.pathsep}{known['PYTHONPATH']}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_without_proc_is_done_and_its_memory_is_a_dash(
    like_macos: dict[str, str], tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = plan_sweep(request(tiny_model, task_file, "lora", eval_answers=False))[-1]
    directory = RunDirectory(tmp_path / "runs" / spec.run_id)
    directory.write_spec(spec)
    done = run(like_macos, "-m", "ftlab.jobs.run_worker", str(directory.path))
    result = directory.result()
    assert done.returncode == 0, directory.log_tail()
    assert result is not None
    assert result.measures.peak_memory_bytes is None
    assert result.measures.train_seconds
    assert result.measures.disturbed is not None


@pytest.mark.slow
def test_the_command_line_works_without_proc(like_macos: dict[str, str], tmp_path: Path) -> None:
    code = "import sys; from ftlab.__main__ import main; print([main([x]) for x in sys.argv[1:]])"
    environment = like_macos | {"FTLAB_RUNS": str(tmp_path / "runs")}
    told = run(environment, "-c", code, "runs", "methods", "doctor")
    assert told.stdout.splitlines()[-1] in ("[0, 0, 0]", "[0, 0, 1]"), "the doctor may find faults"
    assert "Traceback" not in told.stdout + told.stderr


@pytest.mark.slow
def test_without_posix_locks_a_sentence_says_where_it_runs(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from ftlab.__main__ import main; sys.exit(main(['runs', '--runs-dir', sys.argv[1]]))"
    )
    told = run(python_environment(), "-c", code, str(tmp_path))
    assert told.returncode == 2
    assert "Linux or macOS, on Windows within WSL 2" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_worker_that_uses_spare_cores_lowers_its_whole_session(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ftlab.basics import system\n"
        "system.use_spare_cores(*map(Path, sys.argv[1:])); print(os.nice(0))\n"
        "own = Path('/proc/self/autogroup')\n"
        "print(own.read_text() if os.access(own, os.W_OK) else 'nice 19')"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True,
        start_new_session=True, check=True,
    )  # fmt: skip
    assert told.stdout.split()[0] == "19"
    assert told.stdout.split()[-2:] == ["nice", "19"]
    assert run(python_environment(), "-c", code, str(tmp_path)).stdout.startswith("19"), "no file"


def test_what_proc_does_not_say_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "PROC", tmp_path)
    assert system.read_proc("self/status") is None
    assert system.status_bytes("VmRSS") is None
    assert system.reset_peak_size() is False
    boot_id.cache_clear()
    assert boot_id() == ""
    boot_id.cache_clear()
    assert start_time(os.getpid()) is not None, "by the clock, where the kernel does not count"
