"""All tests of training compute in one thread, and share one task file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_task


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on a tiny model wait for each other more than they compute."""
    monkeypatch.setattr("ftlab.training.run.cpu_count", lambda: 1)


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))
