"""Runs as jobs of a Ray cluster, one at a time on each GPU, or on each node that has none.

Ray's job server is asked over HTTP, so this machine need not be a node. The code travels with the
job. If Ray has logical GPUs on a node without a real one, that is how many runs it takes at once.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.jobs.launchers.cluster import NodePlaces, NodeWatch, RayNode, copy_code
from ftlab.jobs.launchers.launcher import Ended, NotNow
from ftlab.jobs.launchers.ray_client import connect, why_not
from ftlab.records.run import RunDirectory

_KILLED = -9
_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
_NEVER_BEGAN = ("JOB_SUPERVISOR_ACTOR_START", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE")
_FOR_MEMORY = "running low on memory"  # in Ray's words on a job that its memory monitor ended


class RayLauncher:
    """A job's name is the run's id and how often it was started, so that none is made twice."""

    seconds_between_looks = 1.0

    def __init__(self, on: str, folder: Path) -> None:
        self.on = on
        self._address, _, self._card = on.partition("#")
        self._client: Any = None
        self._code: tempfile.TemporaryDirectory[str] | None = None
        self.watch = NodeWatch(folder, self._nodes, self._check, self._said)

    def _jobs(self) -> Any:
        self._client = self._client or connect(self._address)
        return self._client

    def places(self) -> NodePlaces:
        return self.watch.places()

    def _nodes(self) -> list[RayNode]:
        """The nodes that are alive, those with the wanted card only. Raises `FtlabError`."""
        self._jobs()
        from ray.util.state import list_nodes

        try:
            listed = list_nodes(
                self._address, [("state", "=", "ALIVE")], 10_000, raise_on_missing_output=False
            )
        except Exception as error:
            self._client = None
            raise FtlabError(why_not(self._address, error)) from None
        nodes = [RayNode(node.node_id, dict(node.resources_total)) for node in listed]
        return [node for node in nodes if not self._card or node.has_card(self._card)]

    def _check(self, node: str, arguments: tuple[str, ...]) -> str:
        return self._submit(f"ftlab-check-{arguments[2]}-{node[:16]}", node, arguments)

    def _said(self, job: str) -> str | None:
        with suppress(Exception):
            if self._jobs().get_job_info(job).status.is_terminal():
                return self.log(job)
        return None

    def _submit(self, name: str, node: str, arguments: tuple[str, ...], **resources: Any) -> str:
        """Submits a job for that node; one that is there already by this name is taken for it."""
        if self._code is None:
            self._code = tempfile.TemporaryDirectory(prefix="ftlab-code-")
            copy_code(Path(self._code.name))
        try:
            self._jobs().submit_job(
                entrypoint=shlex.join(("python", "-m", "ftlab.jobs.node", *arguments)),
                submission_id=name,
                runtime_env={"working_dir": self._code.name},
                entrypoint_label_selector={"ray.io/node-id": node},
                **resources,
            )
        except Exception as error:
            try:
                self._jobs().get_job_info(name)
            except Exception:
                self._client = None
                raise NotNow(why_not(self._address, error)) from None
        return name

    def start(self, directory: RunDirectory, places: tuple[str, ...], number: int) -> str:
        node = self.watch.node_at(places[0])
        name = f"ftlab-{directory.run_id}-{number}"
        taken = node.taken(len(places))
        return self._submit(name, node.id, ("run", str(directory.path)), **taken)

    def status(self, job: str) -> Ended | None:
        try:
            info = self._jobs().get_job_info(job)
        except Exception as error:
            if "does not exist" not in str(error):
                return None
            self.watch.look()  # the head was started anew
            return Ended(_KILLED, is_lost=True)
        if not info.status.is_terminal():
            return None
        code = info.driver_exit_code
        if code is not None:
            # A worker that is killed alone is told by `ftlab.jobs.node`, which is not.
            return Ended(code, is_lost=code in (_KILLED, 128 - _KILLED))
        kind = str(info.error_type or "")
        out_of_memory = _FOR_MEMORY in str(info.message)
        is_lost = kind == _DIED or kind.startswith(_NEVER_BEGAN)
        return Ended(_KILLED, out_of_memory, is_lost and not out_of_memory)

    def cancel(self, job: str, directory: RunDirectory) -> Mapping[str, int | None]:
        with suppress(Exception):  # its worker sees the run's result, too
            self._jobs().stop_job(job)
        return {}

    def log(self, job: str) -> str:
        with suppress(Exception):
            return str(self._jobs().get_job_logs(job))
        return ""
