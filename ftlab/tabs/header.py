"""The bar at the top: running jobs, the bundled model, and free memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from pathlib import Path

from ftlab.basics import units
from ftlab.basics.devices import AUTO, Device, auto_label, free_bytes, like_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.people import asking
from ftlab.models.bundled import bundled_folder, is_fetched
from ftlab.models.files import read_header
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.records.store import Run
from ftlab.tabs.widgets import escape

_BRAND = (
    '<h1 class="brand"><svg viewBox="0 0 20 20" aria-hidden="true">'
    '<rect x="1" y="1" width="5" height="18" rx="1.5"/>'
    '<rect x="8" y="1" width="11" height="5" rx="1.5"/>'
    '<rect x="8" y="8" width="11" height="11" rx="1.5" class="ghosted"/></svg>ftlab</h1>'
)
_FLOATS = {"F64", "F32", "F16", "BF16"}
_TOGGLE = (
    '<button class="toggle" data-theme-toggle aria-label="Switch light and dark" '
    'title="Light / dark">◐</button>'
)


_LOG_OUT = (
    '<form method="post" action="logout"><button class="toggle" aria-label="Log out" '
    'title="Log out"><svg viewBox="0 0 14 14" width="14" height="14" fill="none" '
    'stroke="currentColor" aria-hidden="true">'
    '<path d="M6 1.5H2v11h4M5 7h7.5M10 4.5 12.5 7 10 9.5"/></svg></button></form>'
)


def header_html(runs: Sequence[Run], logs_in: bool = False) -> str:
    """HTML: the whole bar; with `logs_in` it has the person's name and a log-out button."""
    name = asking().name
    who = f'<span class="pill opt" title="{_rights()}">{escape(name)}</span>'
    pills = f"{_activity(runs)}{_model()}{_memory(like_devices(AUTO))}{who if name else ''}"
    buttons = f"{_TOGGLE}{_LOG_OUT if logs_in else ''}"
    return f'<header class="topbar">{_BRAND}<span class="grow"></span>{pills}{buttons}</header>'


def _rights() -> str:
    """What the person who is logged in sees and changes."""
    person = asking()
    if person.changes_all:
        return "You are logged in as an admin: you see and change everything"
    seen = "all see all runs" if person.sees_all else "you see your own runs, and no others"
    return f"You are logged in: {seen}, and change your own"


def count_parameters(folder: Path) -> int | None:
    """Counts the weights in a folder's safetensors files from their headers; `None` without files.

    Also `None` if any tensor is not a float: a quantised file has fewer stored values than weights.
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        stamp = path.stat()
        count = _count_file(path, stamp.st_mtime_ns, stamp.st_size)
        if count is None:
            return None
        total += count
    return total or None


@lru_cache(maxsize=256)
def _count_file(path: Path, modified: int, size: int) -> int | None:
    try:
        with path.open("rb") as file:
            header = read_header(file, path.name)
    except (OSError, FtlabError):
        return None
    return sum(map(prod, header.shapes.values())) if header.dtypes <= _FLOATS else None


def _activity(runs: Sequence[Run]) -> str:
    running = sum(run.status == "running" for run in runs)
    queued = sum(run.status == "queued" for run in runs)
    if not running and not queued:
        return '<span class="pill idle">nothing running</span>'
    if not running:
        return f'<span class="pill run" role="status">{queued} queued</span>'
    waits = f'<span class="roomy">, {queued} queued</span>' if queued else ""
    return (
        f'<span class="pill run" role="status"><i class="pulse"></i>'
        f"<span>{running} running{waits}</span></span>"
    )


def _model() -> str:
    name = model_label(BUNDLED_ID)
    if not is_fetched():
        return f'<span class="pill opt">{name}<small>fetched at the first run</small></span>'
    count = units.format_count(count_parameters(bundled_folder()))
    return f'<span class="pill opt" title="The bundled model">{name}<small>{count}</small></span>'


def _memory(devices: Sequence[Device]) -> str:
    """The like devices together."""
    known = list(map(free_bytes, devices))
    free = None if None in known else sum(filter(None, known))
    whole = sum(device.memory_bytes for device in devices)
    kind, comma, rest = auto_label().partition(",")
    label = f'{escape(kind)}<span class="roomy">{escape(comma + rest)}</span>'
    if free is None:
        return f'<span class="pill"><span>{label}</span></span>'
    used = 1 - free / whole
    return (
        f'<span class="pill" title="Measured now: memory in use on this device">'
        f"<span>{label}</span>"
        f'<span class="meter" style="--v:{used:.0%};--c:var(--muted)"></span>'
        f"<span>{free / 1e9:.1f} GB<small> free of {whole / 1e9:.1f}</small></span>"
        "</span>"
    )
