"""Fixtures that many tests share: a tiny model, and a cache folder of the test's own."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging as absl_logging

import ftlab.tabs  # noqa: F401  # before anything imports gradio
from ftlab.basics.processes import WITHOUT_HUB_CODE
from ftlab.methods.peft_rules import match_without_backtracking
from tests import machine, parts, promises
from tests.tiny import make_tiny_model


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several test processes a core of its own, and all that it starts.

    Threads of torch that share a core with those of another process wait for them at every product.
    """
    worker: dict[str, str] = getattr(config, "workerinput", {})
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})
    match_without_backtracking()  # as in every worker
    # Scoring imports absl. It would keep the standard error of that moment, which is pytest's
    # capture, and close it when a server configures its logging.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    os.environ |= WITHOUT_HUB_CODE
    promises.start(config)


def pytest_addoption(parser: pytest.Parser) -> None:
    promises.add_option(parser)
    parts.add_option(parser)


def pytest_sessionstart() -> None:
    machine.check_disk()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    parts.write_table(terminalreporter)
    machine.say_if_busy(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    promises.finish(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    promises.note_markers(item)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Hostile input drives the same code thousands of times, which takes twice as long while
    coverage is measured: these tests are not counted in it.
    """
    for item in items if config.pluginmanager.hasplugin("_cov") else ():
        if item.get_closest_marker("hostile"):
            item.add_marker(pytest.mark.no_cover)


def leave_out_of_collections() -> None:
    """Exempts what is alive now from garbage collection.

    A run collects garbage at each of its phases. Beside half a million objects that other tests
    had left, a run of two seconds took over a minute.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def garbage_of_this_file_alone() -> None:
    leave_out_of_collections()


@pytest.fixture(scope="session", autouse=True)
def own_device_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests wait for no run of the person's own, and no run of theirs waits for a test.

    No test leaves a process behind that waits for runs; `jobs/test_ready.py` has its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLAB_LOCKS", str(tmp_path_factory.mktemp("locks")))
        patch.setenv("FTLAB_KEPT", str(tmp_path_factory.mktemp("kept")))
        patch.setenv("FTLAB_READY_SECONDS", "0")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A small task of the user's own: repeat a word."""
    return write_task(tmp_path)


def write_task(folder: Path) -> Path:
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "rowan", "willow", "yew"]
    lines = [f"Repeat {word} number {i},{word}" for i in range(4) for word in words]
    path = folder / "words.csv"
    path.write_text("prompt,completion\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path
