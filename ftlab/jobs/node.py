"""What is executed on a node of a cluster: a check of the node, and a run.

Run as: python -m ftlab.jobs.node check RUNS_FOLDER MARK NODE
        python -m ftlab.jobs.node run RUN_DIR

A node reaches the runs folder at the same path as the dispatcher. The check finds the dispatcher's
mark there and leaves what it found, so that both see that the other's file is there.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from ftlab.basics.devices import CPU, Device, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import free_disk_bytes, read_record, write_atomically
from ftlab.basics.leases import LEFT
from ftlab.basics.processes import module_command, worker_environment
from ftlab.jobs.control import control_folder
from ftlab.jobs.lost_worker import oom_kills, result_of_lost_worker
from ftlab.models.bundled import is_fetched
from ftlab.models.libraries import installed_versions
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub

UNFIT = 3
"""Exit status on a machine that cannot do the run, and says why."""

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Node:
    """What a check found on a node; `free_bytes` are those of the runs folder's disk."""

    name: str
    python: str
    versions: dict[str, str]
    devices: tuple[Device, ...]
    has_bundled: bool
    free_bytes: int | None

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.is_cuda)


_NODE = TypeAdapter(Node)


def nodes_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "nodes"


def mark_file(runs_folder: Path, mark: str) -> Path:
    return nodes_folder(runs_folder) / f"{mark}.mark"


def found_file(runs_folder: Path, mark: str, node: str) -> Path:
    return nodes_folder(runs_folder) / f"{mark}.{node}.json"


def read_node(runs_folder: Path, mark: str, node: str) -> Node | None:
    """What the check found; `None` if it has not, or not here."""
    with suppress(FtlabError, OSError):
        return read_record(_NODE, found_file(runs_folder, mark, node))
    return None


def check(runs_folder: Path, mark: str, node: str) -> int:
    """Leaves what this node has in the runs folder; `UNFIT` if that is not the dispatcher's."""
    if not mark_file(runs_folder, mark).exists():
        print(f"ftlab: {not_shared(runs_folder, platform.node())}", flush=True)
        return UNFIT
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides the cards from a job that takes none
    found = Node(
        platform.node(),
        platform.python_version(),
        installed_versions(_PACKAGES),
        list_devices(),
        is_fetched(),
        free_disk_bytes(runs_folder),
    )
    try:
        write_atomically(found_file(runs_folder, mark, node), _NODE.dump_json(found))
    except OSError as error:
        print(f"ftlab: '{runs_folder}' cannot be written ({error.strerror}).", flush=True)
        return UNFIT
    return 0


def not_shared(runs_folder: Path, name: str) -> str:
    return (
        f"The runs folder '{runs_folder}' is not there on the machine {name}, or is another one: "
        "mount the storage that holds it on every machine at that path (NFS, for example)."
    )


def execute(directory: RunDirectory) -> int:
    """Executes the run on this node's device, and writes the result of a worker that left none."""
    try:
        spec = _on_this_node(directory.spec())
        directory.complete_spec(spec)
    except FtlabError as error:
        print(f"ftlab: {error}", flush=True)
        print(f"ftlab: {not_shared(directory.path.parent, platform.node())}", flush=True)
        return UNFIT
    kills = oom_kills()
    command = module_command("ftlab.jobs.run_worker", str(directory.path))
    environment = worker_environment(needs_hub(spec))
    with subprocess.Popen(command, env=environment, cwd=directory.path) as worker:
        # A launcher that cancels signals all processes of its job, or this one only.
        signal.signal(signal.SIGTERM, lambda number, frame: worker.terminate())
        code = worker.wait()
    is_over = code == LEFT or directory.is_waiting or directory.is_at_work
    if not (is_over or directory.result_file.exists()):
        killed = oom_kills() > kills
        directory.write_result(result_of_lost_worker(code, directory, killed))
    return code


def _on_this_node(spec: RunSpec) -> RunSpec:
    """The run's spec with this node's own names of its devices: the cards that the launcher shows
    to this process. Raises `FtlabError` if it shows too few."""
    if spec.device == CPU:
        return spec
    cards = [device.id for device in list_devices() if device.is_cuda][: spec.settings.shard]
    if len(cards) < spec.settings.shard:
        raise FtlabError(
            f"The machine {platform.node()} shows {len(cards)} GPUs to the run {spec.run_id}, "
            f"which is for {spec.settings.shard}."
        )
    return replace(spec, device=cards[0], devices=tuple(cards))


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["check", folder, mark, node]:
            return check(Path(folder), mark, node)
        case ["run", path]:
            return execute(RunDirectory(Path(path)))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
