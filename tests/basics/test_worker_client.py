"""What the clients of all worker processes rely on, where their own tests do not show it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from ftlab.basics.processes import answer_once
from tests.waiting import wait_until

WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "child"
    with pytest.raises(TimeoutError):
        answer_once([sys.executable, "-c", WITH_CHILD, str(file)], seconds=2)
    child = int(file.read_text())
    wait_until(lambda: not psutil.pid_exists(child) or _is_zombie(child))


def _is_zombie(number: int) -> bool:
    return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
