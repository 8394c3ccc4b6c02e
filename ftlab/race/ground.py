"""What a race stands on: data and versions, which must not change while it goes on; the machine."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from ftlab.basics.devices import resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import load_data
from ftlab.records.spec import SweepRequest

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")

Ground = Mapping[str, Any]
"""What a race stands on: `same` must not change when it goes on, and costs belong to `machine`."""


def ground_of(request: SweepRequest) -> Ground:
    """Raises `FtlabError` if the data cannot be read."""
    _, _, data = load_data(request.task)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "same": {"data": data.fingerprint(request.settings.eval_examples), **versions},
        "machine": f"{platform.node()}, {resolve_device(request.device).label}",
    }


def check_ground(ground: Ground, events: Sequence[Mapping[str, Any]]) -> None:
    """Raises `FtlabError` if the race was begun with other data or versions: checkpoints and losses
    would not belong together."""
    begun = next((event["same"] for event in events if event.get("event") == "ground"), None)
    if begun is None:
        return
    changed = [
        f"{name} was {begun.get(name)}, and is {value}"
        for name, value in ground["same"].items()
        if begun.get(name) != value
    ]
    if changed:
        raise FtlabError(
            f"The race cannot go on: {'; '.join(changed)}. Begin a new race, or put back what was."
        )


def measured_on(ground: Ground, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ids of runs that were queued on this machine: their costs can be compared."""
    found, machine = set[str](), ""
    for event in events:
        if event.get("event") == "ground":
            machine = event["machine"]
        elif event.get("event") == "queued" and machine == ground["machine"]:
            found.update(event["runs"])
    return found
