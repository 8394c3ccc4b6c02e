"""Starting the app as a person's shell would, on a port that nothing listens on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import gradio as gr

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


def close_at_once(page: gr.Blocks) -> None:
    """Ends the server of a page; gradio itself waits up to 5 s for what is still being answered."""
    page.server.force_exit = True
    page.close(verbose=False)


def free_port() -> int:
    """A port of this machine that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class App:
    """`python app.py` on a folder of runs; can be killed and started again on the same port."""

    runs: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *options: str) -> float:
        """Starts the app; returns the seconds from the command to the page's first byte."""
        began = time.monotonic()
        with (self.runs / "app.log").open("ab") as log:
            self.process = start_app(
                *("--port", str(self.port), "--runs-dir", str(self.runs), *options),
                stdout=log,
                stderr=log,
            )
        while time.monotonic() - began < 120:
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    answer.read(1)
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.05)
        raise TimeoutError((self.runs / "app.log").read_text())

    def children(self, module: str = "") -> list[psutil.Process]:
        """What it started, and what they started; only those of a module, where one is named."""
        assert self.process is not None
        started = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in started if not module or module in child.cmdline()]

    def kill(self) -> None:
        """SIGKILL: the app has no time to say good-bye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
