"""The running app in each of its three modes, asked by a stranger for everything there is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftlab.operations.log import app_log
from ftlab.paths import assets_folder
from ftlab.ui.serve import Serving
from tests.fakes import make_run
from tests.security.attack.fire import Attack, probed
from tests.security.attack.raw import on_lines, send_raw
from tests.security.attack.shots import on_bodies, on_calls, on_events, on_headers, on_routes
from tests.security.servers import Running, running, tree

RUN = "20261125-120000-ab12-01-lora"
MOST_PRINTED = 4_000  # bytes, of thousands of requests
HEALTHY_SECONDS = 0.3


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command line of every process that is started meanwhile; none is."""
    commands: list[Any] = []

    class Refusing(subprocess.Popen[Any]):
        def __init__(self, command: Any, *args: Any, **kw: Any) -> None:
            commands.append(command)
            raise OSError(1, "no process in this test")

    monkeypatch.setattr(subprocess, "Popen", Refusing)
    return commands


@contextmanager
def attacked(served: Serving, folder: Path) -> Iterator[Running]:
    """The app in that mode, with a run whose log holds a secret, and its own log beside it."""
    make_run(folder / "runs", "lora", run_id=RUN, log="planted-secret")
    with (
        app_log(folder / "log"),
        served.runs_folder(folder / "runs") as runs,
        running(served, runs) as app,
    ):
        yield app


def check(app: Running, attack: Attack, probe: Any, began: float, capfd: Any, record: Any) -> None:
    seconds = time.monotonic() - began
    printed = "".join(capfd.readouterr())
    told = f"{attack.sent} requests in {seconds:.0f} s, {dict(sorted(attack.statuses.items()))}"
    broken = "\n".join(attack.broken[:60])
    assert not attack.broken, f"{told}; {len(attack.broken)} broken:\n{broken}"
    assert len(printed) < MOST_PRINTED, printed[:3000]
    assert probe.share_within(HEALTHY_SECONDS) > 0.95, sorted(probe.seconds)[-20:]
    print(told, "slowest /healthz", max(probe.seconds))
    record("hostile inputs", attack.sent)
    record("requests", attack.sent)


def test_on_loopback(
    tmp_path: Path,
    started: list[Any],
    capfd: pytest.CaptureFixture[str],
    record_property: Any,
) -> None:
    with attacked(Serving(), tmp_path) as app, probed(app.url) as probe:
        shipped, planted = tree(assets_folder()), tree(app.runs / RUN)
        began = time.monotonic()
        attack = Attack(app.url)
        for shots in (on_routes, on_bodies, on_headers, on_calls):
            t = time.monotonic()
            attack.fire(shots(app.page))
            print(shots.__name__, attack.sent, time.monotonic() - t, len(attack.broken))
        t = time.monotonic()
        attack.call(on_events(app.page))
        print("events", attack.sent, time.monotonic() - t, len(attack.broken))
        attack.sent += send_raw(app.url, on_lines(), attack.broken)
        check(app, attack, probe, began, capfd, record_property)
        assert tree(assets_folder()) == shipped
        assert tree(app.runs / RUN) == planted
        assert not [command for command in started if "fake_worker.py" not in str(command)]
