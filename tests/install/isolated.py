"""A process of an image with all its children, as `docker run` starts, enters and stops it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.install.dockerfile import Image
from tests.install.fresh_root import APART, Binding, FreshRoot

KINDS = ("--mount", "--pid", "--net", "--uts", "--ipc")


@dataclass(frozen=True)
class Container:
    """Its network has the loopback alone, until somebody links another (tests/install/proxy.py)."""

    root: FreshRoot
    image: Image
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        root: FreshRoot,
        image: Image,
        bound: Sequence[Binding],
        log: Path,
        command: Sequence[str] = (),
        hostname: str = "container",
    ) -> Container:
        """Starts the image's entry point, with that command in place of its own."""
        script = root.script(
            bound,
            root.as_user(
                image, image.environment, (*image.entrypoint, *(command or image.command))
            ),
            shlex.join(["hostname", hostname]),
            "ip link set lo up",
        )
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*APART, "--uts", "--net", "sh", "-ec", script], stdout=file, stderr=file
            )
        return cls(root, image, log, process)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        """The id, on this machine, of what is process 1 in the container."""
        (first,) = psutil.Process(self.process.pid).children()
        return int(first.pid)

    def inside(self, *command: str) -> list[str]:
        """The command as `docker exec` runs it: with the image's user, folder and environment."""
        started = self.root.as_user(self.image, self.image.environment, command)
        return ["nsenter", f"--target={self.pid}", *KINDS, *started]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)

    def wait_until_healthy(self, seconds: float) -> float:
        """Waits until the image's health check succeeds; returns the seconds."""
        assert self.image.healthcheck is not None
        began = time.monotonic()
        while True:
            assert self.process.poll() is None, self.said
            assert time.monotonic() - began < seconds, self.said
            is_started = bool(psutil.Process(self.process.pid).children())
            if is_started and self.execute(*self.image.healthcheck.command).returncode == 0:
                return time.monotonic() - began
            time.sleep(0.3)

    def wait_until_ended(self, seconds: float) -> int:
        """The exit status of process 1, which ends by itself."""
        return self.process.wait(seconds)

    def zombies(self) -> int:
        """Processes in it that have ended and that nobody has reaped."""
        inside = psutil.Process(self.process.pid).children(recursive=True)
        return sum(each.status() == psutil.STATUS_ZOMBIE for each in inside)

    def stop(self, grace: float) -> float:
        """As `docker stop`: the stop signal, and SIGKILL after the grace; the seconds."""
        began = time.monotonic()
        if self.process.poll() is not None:
            return 0.0
        os.kill(self.pid, getattr(signal, self.image.stop_signal))
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            for each in psutil.Process(self.process.pid).children():
                each.kill()
            self.process.wait(30)
