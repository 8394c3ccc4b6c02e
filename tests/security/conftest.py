"""What the security tests share."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest


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
