"""Page, command line and playground want the same device at once, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.basics.locks import DeviceLock
from tests.waiting import wait_until

_USER = """
import sys, time
from pathlib import Path
from ftlab.basics.locks import DeviceLock
name, log, gives_way = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "yes"
def say(word):
    with log.open("a") as file:
        file.write(f"{name} {word}\\n")
turn = DeviceLock("cpu")
for _ in range(4):
    turn.acquire()
    say("begins")
    time.sleep(0.02)
    say("ends")
    if gives_way:
        turn.give_way()
        say("begins")
        say("ends")
    turn.release()
"""


@pytest.mark.slow
@pytest.mark.fault("page, command line and playground want one device at once")
def test_one_device_is_used_by_one_process_at_a_time_and_everybody_gets_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    log = tmp_path / "log"
    users = [
        subprocess.Popen([sys.executable, "-c", _USER, name, str(log), gives_way])
        for name, gives_way in (("page", "no"), ("command line", "no"), ("playground", "yes"))
    ]
    assert [user.wait(60) for user in users] == [0, 0, 0]
    lines = log.read_text().splitlines()
    begun = [line.removesuffix(" begins") for line in lines[::2]]
    assert [f"{name} ends" for name in begun] == lines[1::2], "two had the device at once"
    assert set(begun) == {"page", "command line", "playground"}


@pytest.mark.fault("user of a device killed with SIGKILL")
def test_a_device_is_free_again_as_soon_as_its_user_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    script = (
        "import time; from ftlab.basics.locks import DeviceLock; turn = DeviceLock('cpu');"
        "turn.acquire(); print('mine', flush=True); time.sleep(60)"
    )
    user = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert user.stdout is not None
    assert user.stdout.readline() == b"mine\n"
    assert not DeviceLock("cpu").try_acquire()
    user.kill()
    user.wait()
    user.stdout.close()
    wait_until(DeviceLock("cpu").try_acquire)
