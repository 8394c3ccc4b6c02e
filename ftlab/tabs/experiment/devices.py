"""The GPUs of a machine that has several: the run on each, its memory in use, and its load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.basics import nvml, units
from ftlab.basics.devices import Device
from ftlab.basics.locks import is_unused
from ftlab.methods.registry import look_of
from ftlab.records.store import Run
from ftlab.tabs.widgets import escape, swatch

_ELSEWHERE = (
    '<span title="By the playground, runs of another folder, or another program">'
    "in use elsewhere</span>"
)


@dataclass(frozen=True)
class DeviceView:
    """One GPU now. `run` is the one of this runs folder that has it; `is_used` if anybody has.

    `memory` is in bytes and `load` in percent, `None` if the driver does not say.
    """

    device: Device
    run: Run | None
    is_used: bool
    memory: nvml.Memory | None = None
    load: int | None = None


def look_at_devices(
    runs: Sequence[Run], devices: Sequence[Device], driver: Any = nvml
) -> tuple[DeviceView, ...]:
    """Every GPU, in the order of the devices; nothing where there are fewer than two."""
    gpus = [device for device in devices if device.is_gpu]
    if len(gpus) < 2:
        return ()
    own = [run for run in runs if run.status == "running" and run.directory.elsewhere is None]
    running = {run.spec.device: run for run in own}
    return tuple(
        DeviceView(
            gpu,
            running.get(gpu.id),
            gpu.id in running or not is_unused(gpu),
            driver.memory(gpu.uuid) if gpu.uuid else None,
            driver.load(gpu.uuid) if gpu.uuid else None,
        )
        for gpu in gpus
    )


def devices_html(views: Sequence[DeviceView]) -> str:
    """One row a GPU; "" for none."""
    if not views:
        return ""
    rows = "".join(map(_row, views))
    return f'<ul class="devices" aria-label="GPUs of this machine">{rows}</ul>'


def _row(view: DeviceView) -> str:
    run = view.run
    if run is not None:
        who = f"{swatch(run.spec.method)}<b>{escape(run.spec.label)}</b>"
        colour = look_of(run.spec.method).colour
    else:
        who, colour = _ELSEWHERE if view.is_used else "free", "var(--muted)"
    memory = load = ""
    share = 0.0
    if view.memory is not None:
        share = view.memory.used / max(1, view.memory.total)
        memory = units.format_part(view.memory.used, view.memory.total)
    if view.load is not None:
        load = f"{view.load}\u2009%"
    name = f"<b>{escape(view.device.id)}</b> <small>{escape(view.device.label)}</small>"
    return (
        f'<li><span>{name}</span><span class="who">{who}</span>'
        f'<span class="meter" style="--v:{share:.0%};--c:{colour}"></span>'
        f'<span title="Memory in use, by all processes">{memory}</span>'
        f'<span title="Share of the last moment in which the GPU computed">{load}</span></li>'
    )
