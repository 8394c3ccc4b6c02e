"""A process that shows no progress is ended; one that does, or that waits, is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.basics.processes import STUCK_ENDS, STUCK_STATUS

PROGRAM = """
import re, sys, time
from pathlib import Path
from ftlab.basics import processes
processes._GRACE_SECONDS = processes._SECONDS_BETWEEN_LOOKS = 0.2
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
def test_a_silent_process_ends_with_its_own_status_a_sentence_and_a_traceback(
    tmp_path: Path,
) -> None:
    status, note, log = ended(tmp_path, "dog.expect(0.5); time.sleep(30)")
    assert status == STUCK_STATUS
    assert note == "It showed no progress for 0 seconds and was ended."
    assert note in log
    assert "most recent call first" in log


@pytest.mark.fault("work that hangs in C code")
def test_where_no_thread_can_run_the_kernel_ends_it(tmp_path: Path) -> None:
    body = "dog.expect(0.5); re.fullmatch('.?' * 45 + 'Z', 'a' * 60)"
    status, _, log = ended(tmp_path, body)
    assert status in STUCK_ENDS
    assert status < 0, "a thread got in between"
    assert "most recent call first" in log


@pytest.mark.parametrize(
    "body",
    [
        "dog.expect(1.0)\nfor _ in range(20):\n    time.sleep(0.1); dog.sign()",
        "dog.expect(0.3); dog.rest(); time.sleep(1.5)",
        "time.sleep(1); dog.sign(); dog.hurry(0.1); time.sleep(1)",
        "dog.expect(0.5); dog.expect(9); time.sleep(1.5)",
        "dog.expect(0.5); dog.rest(); time.sleep(1); dog.expect(9); time.sleep(1)",
    ],
)
def test_signs_and_rests_keep_it_alive(tmp_path: Path, body: str) -> None:
    status, note, log = ended(tmp_path, body)
    assert (status, note) == (0, "")
    assert "ended by itself" in log


def test_work_that_nobody_wants_has_less_time(tmp_path: Path) -> None:
    status, _, _ = ended(tmp_path, "dog.expect(600); dog.hurry(0.3); time.sleep(30)")
    assert status == STUCK_STATUS
