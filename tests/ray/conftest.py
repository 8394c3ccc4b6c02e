"""A real Ray cluster on this machine: a logical GPU on each node, and nodes that can be killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from ftlab.basics.devices import list_devices
from ftlab.basics.processes import DEVICES_VARIABLE
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.launchers.launcher import ON_VARIABLE
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from tests.processes import free_port

_START_SECONDS = 120.0
_RAY = Path(sys.executable).with_name("ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("ray") is None:
        reason = "Ray is not installed; `make test-all` installs it (requirements-ray.txt)."
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Cluster:
    """Nodes are `ray start --block`; each has device locks of its own, as machines have."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _made: list[str] = field(default_factory=list)

    @property
    def on(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start_head(self) -> subprocess.Popen[bytes]:
        return self._start(
            "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def add_node(self) -> subprocess.Popen[bytes]:
        return self._start(f"--address=127.0.0.1:{self.port}")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"node-{len(self.nodes)}.log"
        locks = self.folder / f"locks-{len(self.nodes)}"
        own = tempfile.mkdtemp(prefix="ray-")  # short: the names of sockets are in it
        self._made.append(own)
        command = [
            str(_RAY), "start", "--block", "--disable-usage-stats", "--num-cpus=2", "--num-gpus=1",
            f"--temp-dir={own}", f"--dashboard-agent-listen-port={free_port()}",
        ]  # fmt: skip
        with log.open("wb") as file:
            node = subprocess.Popen(
                [*command, *arguments],
                env=self.environment | {"FTLAB_LOCKS": str(locks)},
                cwd=self.folder,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.nodes.append(node)
        until = time.monotonic() + _START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """As if its machine had lost its power."""
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        node.wait()

    def close(self) -> None:
        for node in self.nodes:
            if node.poll() is None:
                self.kill(node)
        for folder in self._made:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    path = f"{_RAY.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
    }  # fmt: skip
    made = Cluster(folder, environment)
    made.start_head()
    yield made
    made.close()


@pytest.fixture
def on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs that this process queues are executed by the cluster."""
    monkeypatch.setenv(ON_VARIABLE, cluster.on)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", cluster.environment["RAY_AUTH_TOKEN_PATH"])
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv(DEVICES_VARIABLE, raising=False)
    list_devices.cache_clear()
    yield cluster.on
    list_devices.cache_clear()


def queue(request: SweepRequest, folder: Path) -> list[RunDirectory]:
    specs = enqueue_sweep(checked(request), folder)
    return [RunDirectory(folder / spec.run_id) for spec in specs]
