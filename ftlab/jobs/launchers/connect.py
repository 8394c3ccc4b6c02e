"""Has the runs of this process, and of those that it starts, executed elsewhere (`--on`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from ftlab.basics.cards import find_card
from ftlab.basics.devices import CPU, Device, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import DEVICES_VARIABLE
from ftlab.basics.words import plural
from ftlab.jobs.launchers.launcher import ON_VARIABLE, kind_of_launcher, label_of, launcher_named
from ftlab.jobs.node import Node

_CHECK_SECONDS = 90.0
DEVICES = TypeAdapter(tuple[Device, ...])


@dataclass(frozen=True)
class Reached:
    """What `--on` reaches: a sentence, and the devices that runs can be queued for."""

    words: str
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...] = ()
    trouble: str = ""


def reach(on: str, folder: Path) -> Reached:
    """Looks at the cluster and checks its nodes; takes seconds. Raises `FtlabError` if there is
    none, or none of its nodes can take a run."""
    on = on.rstrip("/")
    if kind_of_launcher(on) == "slurm":
        return _slurm(on)
    folder.mkdir(parents=True, exist_ok=True)
    from ftlab.jobs.launchers.ray import RayLauncher

    launcher = launcher_named(on, folder)
    assert isinstance(launcher, RayLauncher)
    with closing(launcher.watch) as watch:
        until = time.monotonic() + _CHECK_SECONDS
        watch.look()
        while not watch.is_settled and time.monotonic() < until:
            time.sleep(0.5)
            watch.look()
        fit = watch.fit()
    if not fit:
        raise FtlabError(watch.trouble or f"No node of {on} has answered; see its dashboard.")
    nodes = [found for _, found in fit]
    devices = (*_gpus(on, nodes), nodes[0].devices[-1])
    many = f"{plural(len(nodes), 'node')}, {_label(devices)}"
    return Reached(f"{label_of(on)}: {many}", devices, tuple(nodes), watch.trouble)


def _gpus(on: str, nodes: Sequence[Node]) -> Iterator[Device]:
    gpus = [gpu for node in nodes for gpu in node.gpus]
    labels = dict.fromkeys(gpu.label for gpu in gpus)
    if any(not gpu.is_like(gpus[0]) for gpu in gpus):
        raise FtlabError(
            f"The nodes of {on} have different GPUs ({', '.join(labels)}), on which runs do not "
            "compare; name the kind, as Ray does in accelerator_type: "
            f"--on {on.partition('#')[0]}#L40S."
        )
    for number, gpu in enumerate(gpus):
        yield replace(gpu, id=f"cuda:{number}", uuid="")


def _label(devices: Sequence[Device]) -> str:
    first, *others = [device for device in devices if device.is_cuda] or devices
    return f"{1 + len(others)} × {first.label}" if others else first.label


def _slurm(on: str) -> Reached:
    from ftlab.jobs.launchers.slurm import SlurmLauncher, read_options

    options = read_options(on)
    launcher = launcher_named(on, Path())
    assert isinstance(launcher, SlurmLauncher)
    here = next(device for device in list_devices() if device.id == CPU)
    devices: tuple[Device, ...] = (replace(here, label="CPU of Slurm's node"),)
    if "card" in options:
        card = find_card(options["card"])
        gpu = Device("cuda:0", card.label, card.memory_bytes, capability=card.capability)
        devices = (gpu, *devices)
    return Reached(f"{label_of(on)}: {_label(devices)}", devices)


def use(on: str, folder: Path) -> Reached:
    """Has the runs that are queued from now on executed there. Raises `FtlabError` as `reach`."""
    reached = reach(on, folder)
    os.environ[ON_VARIABLE] = on.rstrip("/")
    os.environ[DEVICES_VARIABLE] = DEVICES.dump_json(reached.devices).decode()
    list_devices.cache_clear()
    return reached
