"""What is tried with a built image: who may do what in it, its login, and its runs from start to
start.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.install.compose import Compose
from tests.install.dockerfile import Image
from tests.install.fresh_root import Binding, FreshRoot
from tests.install.isolated import Container
from tests.install.proxy import linked_proxy
from tests.install.visitor import FORGED, FROM

ACCOUNT = "ada:a-long-password"
START_SECONDS = 60.0
SWEEP = (
    "python", "-m", "ftlab", "sweep", "--task", "sql", "--methods", "lora", "--batch-size", "1",
    "--eval-examples", "1", "--json", "--steps",
)  # fmt: skip

FIND_WRITABLE = ("find", "/", "-xdev", "(", "-type", "f", "-o", "-type", "d", ")", "-writable")


@dataclass(frozen=True)
class Said:
    """Prints what was found, with the seconds since the beginning."""

    began: float

    def __call__(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:4.0f} s: {what}", flush=True)


@dataclass(frozen=True)
class Tried:
    """What is tried with a built image, and two volumes that outlive its containers."""

    root: FreshRoot
    image: Image
    folder: Path
    variant: str
    compose: Compose
    said: Said

    @property
    def volumes(self) -> list[Binding]:
        return [Binding(self._volume(path), path) for path in self.image.volumes]

    def _volume(self, path: str) -> Path:
        return self.folder / "volumes" / path.strip("/")

    def all(self) -> None:
        self._make_volumes()
        self.without_a_login()
        self.secrets_that_are_refused()
        self.user_and_rights()
        self.runs_that_cannot_be_written()
        self.life_of_a_run()

    def _make_volumes(self) -> None:
        """As Docker does: a new volume gets what is at its place in the image, with its owners."""
        for path in self.image.volumes:
            place = self._volume(path)
            place.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "--archive", str(self.root.inside(path)), str(place)], check=True)

    def _secret(self, name: str, mode: int, owner: str) -> Binding:
        file = self.folder / name
        file.write_text(f"{ACCOUNT}\n")
        file.chmod(mode)
        shutil.chown(file, *self.root.ids(owner))
        return Binding(file, "/run/secrets/auth")

    def _start(
        self,
        *bound: Binding,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Container:
        app = self.compose.app(self.variant)
        image = replace(self.image, environment={**self.image.environment, **(environment or {})})
        return Container.start(
            self.root, image, [*self.volumes, *bound], self.folder / "container.log",
            command, hostname=app["hostname"],
        )  # fmt: skip

    def _app(self) -> Container:
        """As compose.yaml starts it, with a secret that the app accepts; until it is healthy."""
        secret = self._secret("auth", 0o400, self.image.user)
        container = self._start(secret, command=self.compose.app(self.variant)["command"])
        seconds = container.wait_until_healthy(START_SECONDS)
        self.said(f"healthy {seconds:.1f} s after its start, without a network")
        return container

    def _refused(self, sentence: str, *bound: Binding, command: Sequence[str] = ()) -> None:
        container = self._start(*bound, command=command)
        assert container.wait_until_ended(START_SECONDS) != 0, container.said
        assert sentence in container.said, container.said

    def without_a_login(self) -> None:
        self._refused("0.0.0.0 without a login would let anybody")
        container = self._start(environment={"FTLAB_AUTH": ACCOUNT})
        container.wait_until_healthy(START_SECONDS)
        container.kill()
        self.said("the image's own command starts with FTLAB_AUTH, and is refused without a login")

    def secrets_that_are_refused(self) -> None:
        command = self.compose.app(self.variant)["command"]
        anybody = self._secret("anybody", 0o444, self.image.user)
        self._refused("can be read or changed by others", anybody, command=command)
        of_root = self._secret("of-root", 0o600, "root")
        self._refused("cannot be read (Permission denied)", of_root, command=command)
        self.said("a secret that others can read, or the app cannot, is refused in one sentence")

    def user_and_rights(self) -> None:
        container = self._app()
        try:
            assert container.execute("id", "-u").stdout.strip() == str(self._uid) != "0"
            found = container.execute(*FIND_WRITABLE).stdout.split()
            open_to_all = [*self.image.volumes, "/tmp", "/var/tmp", "/run/lock"]
            others = [
                each for each in map(Path, found) if not any(map(each.is_relative_to, open_to_all))
            ]
            assert others == [], f"the app's user can change {others}"
            for path in self.image.volumes:
                done = container.execute("touch", f"{path}/written")
                assert done.returncode == 0, done.stderr
                self._volume(path).joinpath("written").unlink()
            self.said(f"the app is user {self._uid}, and writes to its volumes alone")
        finally:
            container.kill()

    @property
    def _uid(self) -> int:
        return self.root.ids(self.image.user)[0]

    def runs_that_cannot_be_written(self) -> None:
        """A folder of the host's in place of the volume, that is another user's."""
        foreign = self.folder / "foreign"
        foreign.mkdir()
        secret = self._secret("auth", 0o400, self.image.user)
        command = self.compose.app(self.variant)["command"]
        container = self._start(secret, Binding(foreign, "/runs"), command=command)
        try:
            self._wait(lambda: "ftlab is ready" in container.said, container)
            assert self.image.healthcheck is not None
            assert container.execute(*self.image.healthcheck.command).returncode == 1
            done = container.execute(*SWEEP, "2")
            assert "'/runs' cannot be written (Permission denied)" in done.stderr, done
            self.said("with a runs folder of another user's it is unhealthy, and a sweep says why")
        finally:
            container.kill()

    def _wait(self, is_so: Callable[[], bool], container: Container) -> None:
        began = time.monotonic()
        while not is_so():
            assert time.monotonic() - began < START_SECONDS, container.said
            time.sleep(0.3)

    def life_of_a_run(self) -> None:
        container = self._app()
        try:
            rows = self._json(container, *SWEEP, "2")
            assert [(row["method"], row["status"]) for row in rows] == [("lora", "done")], rows
            self.said("two steps of LoRA are done")
            self.over_https(container)
            interrupted = self._begin_a_long_run(container)
            waiting = self._queue(container)
            assert container.zombies() == 0
        finally:
            seconds = container.stop(self.compose.grace_seconds(self.variant))
        assert container.process.returncode == 0, container.said
        self.said(f"stopped after {seconds:.1f} s, with a run at work and one waiting")
        container = self._app()
        try:
            states = self._until(container, lambda states: states.get(waiting) == "done")
            assert states[interrupted] == "interrupted", states
            assert states[rows[0]["run_id"]] == "done", states
            self.said("a new container shows the run at work as interrupted, and did the next one")
        finally:
            container.stop(self.compose.grace_seconds(self.variant))

    def over_https(self, container: Container) -> None:
        if shutil.which("caddy") is None:
            print(
                "SKIPPED: the proxy was not tested, as caddy is missing (Debian's package caddy)."
            )
            return
        place = self.folder / "proxy"
        place.mkdir()
        compose = self.compose
        with linked_proxy(
            compose.caddyfile, place, container.pid, compose.proxy_address, compose.an_app_address,
            compose.network.prefixlen,
        ) as proxy:  # fmt: skip
            found = proxy.visit("https://localhost", self.folder / "auth")
        assert found["health"] == {"status": "ok"}, found
        assert found["details"]["runs_folder_writable"] is True, found
        statuses = {name: found[name] for name in ("stranger", "wrong", "foreign", "right", "page")}
        assert statuses == {
            "stranger": 401, "wrong": 400, "foreign": 403, "right": 200, "page": 200
        }, found  # fmt: skip
        assert found["root"] == "https://localhost", found
        assert any("secure" in cookie.lower() for cookie in found["cookies"]), found
        assert found["plain"] == [308, "https://localhost/"], found
        log = self._volume("/runs") / ".ftlab" / "app.log"
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        clients = {line["client"] for line in noted if line.get("path") == "/login"}
        assert clients == {FROM}, f"not {FORGED} and not {compose.proxy_address}: {clients}"
        self.said("logged in over HTTPS through Caddy; the log has the visitor's own address")

    def _json(self, container: Container, *command: str) -> list[dict[str, Any]]:
        done = container.execute(*command)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def _states(self, container: Container) -> dict[str, str]:
        rows = self._json(container, "python", "-m", "ftlab", "runs", "--format", "json")
        return {row["run_id"]: row["status"] for row in rows}

    def _until(
        self, container: Container, is_so: Callable[[dict[str, str]], bool]
    ) -> dict[str, str]:
        began = time.monotonic()
        while not is_so(states := self._states(container)):
            assert time.monotonic() - began < 120, states
            time.sleep(1)
        return states

    def _new(self, container: Container, steps: str, status: str) -> str:
        """Queues a sweep from a command that goes on, and returns its run in that state."""
        before = set(self._states(container))
        with self.folder.joinpath(f"sweep-{steps}.log").open("wb") as log:
            subprocess.Popen(container.inside(*SWEEP, steps), stdout=log, stderr=log)

        def there(states: dict[str, str]) -> bool:
            return any(states[run] == status for run in states.keys() - before)

        states = self._until(container, there)
        (run,) = states.keys() - before
        return run

    def _begin_a_long_run(self, container: Container) -> str:
        return self._new(container, "5000", "running")

    def _queue(self, container: Container) -> str:
        return self._new(container, "3", "queued")
