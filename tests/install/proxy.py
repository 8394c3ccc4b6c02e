"""The proxy of compose.yaml in a network namespace of its own, linked to that of a container.

Caddy is this machine's own. It has the Caddyfile, the address and the ports of compose.yaml, and a
folder of its own for certificates.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import ROOT

APP = "app"
"""The name at which the Caddyfile finds the app."""


@dataclass(frozen=True)
class Proxy:
    """Caddy, and a visitor of it."""

    process: subprocess.Popen[bytes]
    certificate: Path

    def visit(self, url: str, accounts: Path) -> dict[str, Any]:
        """What the app answers over HTTPS to tests/install/visitor.py, which runs beside Caddy."""
        inside = ["nsenter", f"--target={self.process.pid}", "--net", sys.executable]
        module = ["-m", "tests.install.visitor", url, str(self.certificate), str(accounts)]
        done = subprocess.run(
            [*inside, *module], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers


@contextmanager
def linked_proxy(
    caddyfile: str, folder: Path, container: int, own: str, others: str, bits: int
) -> Iterator[Proxy]:
    """Starts Caddy at the address `own`, linked to the process of a container at `others`."""
    (folder / "Caddyfile").write_text(caddyfile)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{others} {APP}\n")
    lines = [
        "ip link set lo up",
        shlex.join(["mount", "--bind", str(folder / "hosts"), "/etc/hosts"]),
        f"exec caddy run --adapter caddyfile --config {shlex.quote(str(folder / 'Caddyfile'))}",
    ]
    given = os.environ | {name: str(folder) for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", "\n".join(lines)],
            env=given, stdout=log, stderr=log,
        )  # fmt: skip
    certificate = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    try:
        deadline = time.monotonic() + 30
        while not certificate.is_file():  # Caddy is in its own namespaces by then
            assert process.poll() is None, (folder / "caddy.log").read_text()
            assert time.monotonic() < deadline, (folder / "caddy.log").read_text()
            time.sleep(0.1)
        _link((process.pid, own), (container, others), bits)
        yield Proxy(process, certificate)
    finally:
        process.terminate()
        process.wait(30)


def _link(one: tuple[int, str], other: tuple[int, str], bits: int) -> None:
    """A cable between the network namespaces of two processes, with an address at each end."""
    names = [f"ftlab{pid % 10**6}" for pid, _ in (one, other)]
    _ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for name, (pid, address) in zip(names, (one, other), strict=True):
        _ip("link", "set", name, "netns", str(pid))
        _ip("addr", "add", f"{address}/{bits}", "dev", name, within=pid)
        _ip("link", "set", name, "up", within=pid)


def _ip(*arguments: str, within: int = 0) -> None:
    enter = ["nsenter", f"--target={within}", "--net"] if within else []
    subprocess.run([*enter, "ip", *arguments], check=True)
