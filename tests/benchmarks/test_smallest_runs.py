"""Every benchmark and script that a document names runs, and every option it is given exists."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.smallest import NOT_RUN, SMALLEST, SmallRun
from tests.browser.conftest import path_of_chromium
from tests.conftest import leave_out_of_collections
from tests.documents import ROOT, Command, commands, documents

NAMED = [each for each in commands(documents()) if each.module.startswith("tests.")]
LOAD = {
    "sessions": 2, "seconds": 3.0, "share": 0.03, "polls": 4, "quantiles": [0.01, 0.02, 0.03],
    "errors": [], "memory": [340_000_000, 350_000_000, 350_000_000],
}  # fmt: skip
"""As `tests.benchmarks.load --json` writes it, in part."""


@pytest.fixture
def as_alone() -> Iterator[None]:
    """As if the benchmark had the process to itself."""
    import torch

    threads = torch.get_num_threads()
    leave_out_of_collections()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("as_alone")
@pytest.mark.parametrize("run", SMALLEST, ids=str)
def test_it_runs_and_prints_its_figures(
    run: SmallRun,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if run.opens_page:
        path_of_chromium()
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    (tmp_path / "load.json").write_text(json.dumps(LOAD), encoding="utf-8")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status = run.main(tiny_model, tmp_path)
    run.check(status, capfd.readouterr().out, tmp_path)


def test_every_script_that_a_document_names_has_a_smallest_run() -> None:
    runs = {run.module for run in SMALLEST}
    for command in NAMED:
        assert command.module in runs | NOT_RUN.keys(), (
            f"{command.document} names '{command}': add its smallest run to "
            "tests/benchmarks/smallest.py"
        )


def test_no_smallest_run_and_no_exception_is_of_a_script_that_no_document_names() -> None:
    named = {command.module for command in NAMED}
    assert named >= {run.module for run in SMALLEST}
    assert named >= NOT_RUN.keys()


@pytest.mark.parametrize(
    "command",
    [c for c in NAMED if c.options and c.module not in NOT_RUN],
    ids=lambda c: f"{c.document}: {c}",
)
def test_a_script_has_the_options_that_a_document_gives_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(command.module).main(["--help"])
    printed = capsys.readouterr().out
    assert [option for option in command.options if option not in printed] == []
