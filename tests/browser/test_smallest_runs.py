"""Every benchmark that a document names and that opens a page runs, with its smallest arguments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.benchmarks.smallest import ON_A_PAGE, SmallRun
from tests.benchmarks.test_smallest_runs import prepared


@pytest.mark.model
@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
@pytest.mark.parametrize("run", ON_A_PAGE, ids=str)
def test_it_runs_and_prints_its_figures(
    run: SmallRun,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = prepared(tmp_path, monkeypatch)
    # In a thread of its own: Playwright allows one driver a thread, and other tests may have one.
    with ThreadPoolExecutor(1) as thread:
        status = thread.submit(run.main, tiny_model, folder).result()
    run.check(status, capfd.readouterr().out, folder)
