"""`/healthz` on a served page, and how the health of a runs folder is told."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ftlab import __version__
from ftlab.basics.log import app_log
from ftlab.jobs.control import control_folder, dispatcher_lock
from ftlab.operations import health
from ftlab.operations.health import FRESH_SECONDS, HealthProbe, look
from ftlab.records.store import RunStore
from ftlab.tabs.serve import Accounts, NotedBlocks, Serving, health_route
from tests.fakes import make_run
from tests.security.servers import free_port


def age(folder: Path, run_id: str, seconds: float) -> None:
    """Makes the run as old as that."""
    spec = folder / run_id / "spec.json"
    row = json.loads(spec.read_text())
    spec.write_text(json.dumps(row | {"created_at": time.time() - seconds}))


def told(folder: Path) -> dict[str, Any]:
    return look(folder, RunStore(folder)).to_json()


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A runs folder in which a run has waited for a minute."""
    age(tmp_path, make_run(tmp_path, "lora", "queued").run_id, 60)
    return tmp_path


def test_an_empty_or_missing_folder_is_healthy_and_is_not_made(tmp_path: Path) -> None:
    assert told(tmp_path / "later" / "runs")["status"] == "ok"
    assert list(tmp_path.iterdir()) == []
    assert told(tmp_path) == {
        "status": "ok",
        "version": __version__,
        "runs_folder_writable": True,
        "dispatcher": "idle",
        "queued": 0,
        "running": 0,
    }


def test_running_and_queued_runs_are_counted_while_a_dispatcher_works(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", "running")
    make_run(tmp_path, "qlora", "queued")
    lock = dispatcher_lock(tmp_path)
    assert lock.try_acquire()
    found = told(tmp_path)
    assert (found["running"], found["queued"]) == (1, 1)
    assert (found["status"], found["dispatcher"]) == ("ok", "working")
    lock.release()


@pytest.mark.fault("no dispatcher while runs wait")
def test_runs_that_nobody_works_on_are_told_after_a_moment(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", "queued")
    age(tmp_path, run.run_id, 1)
    assert (told(tmp_path)["status"], told(tmp_path)["dispatcher"]) == ("ok", "starting")
    age(tmp_path, run.run_id, 60)
    assert (told(tmp_path)["status"], told(tmp_path)["dispatcher"]) == ("failing", "missing")


@pytest.mark.fault("runs folder is a file")
def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").write_text("in the way")
    found = told(tmp_path / "runs")
    assert (found["status"], found["runs_folder_writable"]) == ("failing", False)
    monkeypatch.setattr(health, "refusal", lambda folder: "No space left on device")
    assert told(tmp_path)["status"] == "failing"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel lists no locks")
def test_the_holder_of_the_lock_is_found_without_touching_it(waiting: Path) -> None:
    lock = dispatcher_lock(waiting)
    assert lock.try_acquire()
    state = health.queue_state(waiting, RunStore(waiting).runs())
    assert state.dispatcher_pid == os.getpid()
    lock.release()
    assert told(waiting)["dispatcher"] == "missing"


def test_where_the_kernel_lists_no_locks_the_lock_itself_is_asked(
    waiting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_LOCKS", waiting / "nothing")
    assert told(waiting)["dispatcher"] == "missing"
    lock = dispatcher_lock(waiting)
    assert lock.try_acquire()
    assert told(waiting)["dispatcher"] == "working"
    lock.release()
    assert told(waiting)["dispatcher"] == "missing"
    with (control_folder(waiting) / "dispatcher.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # asking left nothing locked


def test_many_probes_look_at_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    now = [100.0]
    real = look
    monkeypatch.setattr(health, "look", lambda *args: looks.append(args[0]) or real(*args))
    probe = HealthProbe(RunStore(tmp_path), clock=lambda: now[0])
    with ThreadPoolExecutor(20) as threads:
        for _ in range(20):
            threads.submit(probe.health)
    assert len(looks) == 1
    now[0] += FRESH_SECONDS
    probe.health()
    assert len(looks) == 2


@contextmanager
def served(
    folder: Path,
    handler: Callable[..., Any] | None = None,
    accounts: Accounts = Accounts(),  # noqa: B008
) -> Iterator[str]:
    with NotedBlocks() as page:
        box = gr.Textbox()
        box.submit(handler or (lambda text: text), box, box, api_name="echo")
    where = Serving(port=free_port(), accounts=accounts)
    where.launch(page, [health_route(RunStore(folder))])
    try:
        yield f"http://127.0.0.1:{where.port}/"
    finally:
        page.close(verbose=False)


def test_the_route_answers_a_probe_with_everything(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running")
    with served(tmp_path) as url:
        answer = httpx.get(f"{url}healthz")
        assert answer.status_code == 200
        assert answer.json() == told(tmp_path)
        assert answer.headers["cache-control"] == "no-store"
        assert httpx.head(f"{url}healthz").status_code == 200
        assert httpx.post(f"{url}healthz").status_code == 405
    assert str(tmp_path) not in answer.text


def test_a_folder_that_fails_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with served(tmp_path / "runs") as url:
        assert httpx.get(f"{url}healthz").status_code == 503


def test_who_is_not_logged_in_is_told_one_word(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running")
    with served(tmp_path, accounts=Accounts({"ada": "correct-horse"})) as url:
        assert httpx.get(f"{url}healthz").json() == {"status": "ok"}
        with httpx.Client(base_url=url) as browser:
            browser.post("/login", data={"username": "ada", "password": "correct-horse"})
            assert browser.get("/healthz").json() == told(tmp_path)
            forged = dict.fromkeys(browser.cookies, "forged")
        assert httpx.get(f"{url}healthz", cookies=forged).json() == {"status": "ok"}


def test_an_error_of_a_handler_lands_in_the_log_once_and_is_a_sentence_in_the_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(text: str) -> str:
        raise KeyError(f"no entry for {text}")

    with app_log(tmp_path / "log"), served(tmp_path, broken) as url:
        client = Client(url, verbose=False)
        for _ in range(2):
            with pytest.raises(AppError, match="Something went wrong here"):
                client.predict("my private prompt", api_name="/echo")
    (row,) = [
        row
        for line in (tmp_path / "log/app.log").read_text().splitlines()
        if (row := json.loads(line))["level"] == "error"
    ]
    assert (row["event"], row["handler"], row["error"]) == ("handler failed", "echo", "KeyError")
    assert row["message"] == "'no entry for [given]'"
    assert any(frame.endswith(" broken") for frame in row["stack"])
    assert "KeyError" not in "".join(capfd.readouterr()), "the log has it, once"


def test_a_refused_call_a_failed_login_and_a_refused_file_land_in_the_log(tmp_path: Path) -> None:
    def refuse(text: str) -> str:
        raise gr.Error(f"There is no method '{text}'.", print_exception=False)

    with app_log(tmp_path / "log"), served(tmp_path, refuse) as url:
        with pytest.raises(AppError):
            Client(url, verbose=False).predict("lorra-lorra", api_name="/echo")
        httpx.get(f"{url}gradio_api/file=/etc/passwd?token=abc")
    with (
        app_log(tmp_path / "log"),
        served(tmp_path, accounts=Accounts({"ada": "correct-horse"})) as url,
    ):
        httpx.post(f"{url}login", data={"username": "ada", "password": "wrong-horse"})
        httpx.get(f"{url}config")
    text = (tmp_path / "log/app.log").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [(row["event"], row.get("status")) for row in found] == [
        ("call refused", None),
        ("request refused", 403),
        ("request refused", 400),
        ("request refused", 401),
    ]
    assert found[0]["reason"] == "There is no method '[given]'."
    assert "wrong-horse" not in text
    assert "token=abc" not in text
