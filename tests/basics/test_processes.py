"""A process without progress is ended, and one that takes too long ends with its children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ftlab.basics.processes import STUCK_ENDS, STUCK_STATUS, answer_once
from tests.waiting import wait_until

PROGRAM = """
import re, sys, time
from pathlib import Path
from ftlab.basics import processes
processes._GRACE_SECONDS = processes._SECONDS_BETWEEN_LOOKS = 0.1
dog = processes.Watchdog(Path(sys.argv[1]).write_text)
{body}
print("ended by itself")
"""


def ended(tmp_path: Path, body: str) -> tuple[int, str, str]:
    """Exit status, what was written at the end, and the log."""
    note = tmp_path / "note"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body), str(note)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, note.read_text() if note.exists() else "", done.stderr + done.stdout


@pytest.mark.fault("work that hangs")
@pytest.mark.parametrize("body", ["dog.expect(0.3)", "dog.expect(600); dog.hurry(0.3)"])
def test_a_silent_process_ends_with_its_own_status_a_sentence_and_a_traceback(
    tmp_path: Path, body: str
) -> None:
    """After a cancellation the timeout is shorter."""
    status, note, log = ended(tmp_path, f"{body}; time.sleep(30)")
    assert status == STUCK_STATUS
    assert note == "It showed no progress for 0 seconds and was ended."
    assert note in log
    assert "most recent call first" in log


@pytest.mark.fault("work that hangs in C code")
def test_where_no_thread_can_run_the_kernel_ends_it(tmp_path: Path) -> None:
    body = "dog.expect(0.2); re.fullmatch('.?' * 45 + 'Z', 'a' * 60)"
    status, _, log = ended(tmp_path, body)
    assert status in STUCK_ENDS
    assert status < 0, "a thread got in between"
    assert "most recent call first" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "dog.expect(2)\nfor _ in range(25):\n    time.sleep(0.1); dog.sign()",
        "time.sleep(0.4); dog.sign(); dog.hurry(0.1); time.sleep(0.6)",
        "dog.expect(1.5); dog.rest(); time.sleep(2); dog.expect(9); time.sleep(0.6)",
    ],
)
def test_signs_and_rests_keep_it_alive(tmp_path: Path, body: str) -> None:
    status, note, log = ended(tmp_path, body)
    assert (status, note) == (0, "")
    assert "ended by itself" in log


WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


@pytest.mark.slow
def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "child"
    with pytest.raises(TimeoutError):
        answer_once([sys.executable, "-c", WITH_CHILD, str(file)], seconds=2)
    child = int(file.read_text())
    wait_until(lambda: not psutil.pid_exists(child) or _is_zombie(child))


def _is_zombie(number: int) -> bool:
    return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
