"""Studies whose runs are done in the process of the test."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.training.one_run import work_off


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are done here, and their time is not predicted."""
    monkeypatch.setattr("ftlab.maintain.studies.start_dispatcher", work_off)
    monkeypatch.setattr("ftlab.commands.watch.start_dispatcher", work_off)
    monkeypatch.setattr("ftlab.maintain.studies.predicted_meanwhile", lambda *asked: nullcontext())
