"""Starting the app as a person's shell would."""

from __future__ import annotations

import signal
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
