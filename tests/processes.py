"""Starting the app as a person's shell would, on a port that nothing listens on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def start_app(*arguments: str, **how: Any) -> subprocess.Popen[Any]:
    """`python app.py` with those arguments.

    Ctrl-C ends it, also where the tests run in the background, where a shell has it ignored.
    """
    return subprocess.Popen(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **how,
    )


def free_port() -> int:
    """A port of this machine that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
