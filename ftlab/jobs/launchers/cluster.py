"""Nodes of a cluster: which there are, what a check found on each, and which take a run now.

A node is checked before its first run: whether the runs folder is there, and what its devices are.
The others go on meanwhile. What is wrong is said in one sentence, which the page shows.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlab.basics.devices import CPU, Device, told_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, is_checkout
from ftlab.jobs.control import note_trouble
from ftlab.jobs.launchers.launcher import NotNow
from ftlab.jobs.node import Node, mark_file, nodes_folder, not_shared, read_node
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec

_LOOK_SECONDS = 3.0
_CHECK_SECONDS = 120.0
_LATE_SECONDS = 60.0
"""NFS keeps the list of a folder so long: a file that another machine wrote may be seen later."""

_PACKAGE = Path(__file__).resolve().parents[2]


def copy_code(target: Path) -> None:
    """Copies this code and its assets alone, as jobs get it."""
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_PACKAGE, target / _PACKAGE.name, ignore=leave)
    if is_checkout():
        shutil.copytree(assets_folder(), target / "assets", ignore=leave)


@dataclass(frozen=True)
class RayNode:
    """A node as Ray describes it, by what it has of each resource."""

    id: str
    resources: Mapping[str, float]

    def has_card(self, card: str) -> bool:
        return f"accelerator_type:{card}" in self.resources

    @property
    def places(self) -> list[str]:
        """One for each run that it takes at once."""
        return [f"{self.id}/{n}" for n in range(int(self.resources.get("GPU", 0)) or 1)]

    def taken(self, places: int) -> dict[str, Any]:
        """What a run takes of it: as many GPUs, or all CPUs."""
        if self.resources.get("GPU", 0) >= 1:
            return {"entrypoint_num_gpus": places}
        return {"entrypoint_num_cpus": self.resources.get("CPU", 1)}


@dataclass
class _Check:
    job: str
    began: float = field(default_factory=time.monotonic)
    found: Node | None = None
    problem: str = ""


class NodeWatch:
    """Looks at the nodes every few seconds, and has each new one checked once.

    `check` starts the check of a node with these arguments of `ftlab.jobs.node`, and returns its
    job; `said` is what a job has printed, `None` while it is not over.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Callable[[], list[RayNode]],
        check: Callable[[str, tuple[str, ...]], str],
        said: Callable[[str], str | None],
    ) -> None:
        self._folder = folder
        self._list, self._check, self._said = nodes, check, said
        self._mark = secrets.token_hex(4)
        self._nodes: dict[str, RayNode] = {}
        self._checks: dict[str, _Check] = {}
        self._looked = float("-inf")
        self._trouble: str | None = None
        self._lack = ""

    def _lacks(self, sentence: str) -> None:
        """Notes why a run can start nowhere; it is told with the next look."""
        self._lack = sentence

    def places(self) -> NodePlaces:
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self.look()
        return NodePlaces(self.fit(), told_devices(), self._lacks)

    def found(self, node: str) -> Node | None:
        """What the node's check found; `None` if it is not over, or found the node unfit."""
        check = self._checks.get(node)
        return check.found if check else None

    def node_at(self, place: str) -> RayNode:
        """Raises `NotNow` if the node has gone meanwhile."""
        node = self._nodes.get(place.partition("/")[0])
        if node is None:
            raise NotNow(f"The node {place} has gone.")
        return node

    def fit(self) -> list[tuple[RayNode, Node]]:
        """The nodes that take runs, with what was found on them."""
        return [(node, found) for node in self._nodes.values() if (found := self.found(node.id))]

    @property
    def is_settled(self) -> bool:
        """Whether the check of every node is over, or none can be looked at."""
        return all(check.found or check.problem for check in self._checks.values())

    @property
    def trouble(self) -> str:
        """What is wrong, in sentences; "" if nothing is."""
        return self._trouble or ""

    def look(self) -> None:
        """Lists the nodes, checks new ones, and notes what is wrong."""
        self._looked = time.monotonic()
        try:
            self._nodes = {node.id: node for node in self._list()}
            for node in self._nodes.keys() - self._checks.keys():
                self._begin(node)
            problems = [self._problem(one) for one in self._nodes]
            trouble = "" if self._nodes else "The cluster has no such node."
        except (FtlabError, NotNow) as error:
            problems, trouble = [], str(error)
        self._tell(" ".join(filter(None, [trouble, *dict.fromkeys(problems), self._lack])))
        self._lack = ""

    def _begin(self, node: str) -> None:
        try:
            mark_file(self._folder, self._mark).parent.mkdir(parents=True, exist_ok=True)
            mark_file(self._folder, self._mark).touch()
        except OSError as error:
            raise FtlabError(
                f"The runs folder '{self._folder}' cannot be written ({error.strerror})."
            ) from None
        arguments = ("check", str(self._folder), self._mark, node)
        self._checks[node] = _Check(self._check(node, arguments))

    def _problem(self, node: str) -> str:
        """Why the node takes no run; "" if it does, or its check is not over."""
        check = self._checks[node]
        if check.found or check.problem:
            return check.problem
        check.found = read_node(self._folder, self._mark, node)
        said = self._said(check.job)
        waited = time.monotonic() - check.began
        if check.found or (said is None and waited < _CHECK_SECONDS):
            return ""
        lines = (said or "").strip().splitlines()
        told = [line for line in lines if line.startswith("ftlab: ")]
        if told:
            check.problem = told[-1].removeprefix("ftlab: ")
        elif said is None:
            check.problem = f"The node {node[:8]} has not answered for {_CHECK_SECONDS:.0f} s."
        elif "No module named" in said:
            check.problem = (
                f"On the node {node[:8]}, 'python' lacks what ftlab needs ({lines[-1][:200]}): "
                "start Ray there within the environment that requirements.txt is installed in."
            )
        elif waited >= _LATE_SECONDS:
            check.problem = not_shared(self._folder, f"of the node {node[:8]}")
        return check.problem

    def _tell(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            print(f"ftlab: {trouble}", flush=True)
        note_trouble(self._folder, trouble)

    def close(self) -> None:
        """Removes what the checks left in the runs folder."""
        with suppress(OSError):
            for path in nodes_folder(self._folder).glob(f"{self._mark}.*"):
                path.unlink(missing_ok=True)


class NodePlaces:
    """The places on nodes that are fit; a place's name is its node's and a number."""

    def __init__(
        self,
        nodes: Sequence[tuple[RayNode, Node]],
        told: Sequence[Device] | None,
        lacks: Callable[[str], None],
    ) -> None:
        self._nodes, self._lacks = nodes, lacks
        self._card = next((device for device in told or () if device.is_cuda), None)

    def may_do(self, directory: RunDirectory, spec: RunSpec) -> bool:
        return True

    def for_run(self, spec: RunSpec, busy: Collection[str]) -> tuple[str, ...]:
        """A run over several GPUs gets those of one node."""
        count = 1 if spec.device == CPU else spec.settings.shard
        for node, found in self._nodes:
            free = [place for place in node.places if place not in busy]
            if self._can(found, spec) and len(free) >= count:
                return tuple(free[:count])
        if count > max((len(node.places) for node, _ in self._nodes), default=count):
            self._lacks(
                f"No node has the {count} GPUs that {spec.run_id} is divided over; it waits."
            )
        return ()

    def wanted(self, spec: RunSpec) -> Collection[str]:
        """Those of the first node that has enough."""
        enough = (node.places for node, _ in self._nodes if len(node.places) >= spec.settings.shard)
        return next(enough, ())

    def _can(self, found: Node, spec: RunSpec) -> bool:
        """Whether the node has the device, with the same card as all others that take runs."""
        if spec.device == CPU:
            return True
        return any(self._card is None or gpu.is_like(self._card) for gpu in found.gpus)
