"""Parses and checks the seeds, the device and the memory limit of a request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ftlab.basics.devices import resolve_device, why_driver_is_too_old
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names
from ftlab.settings.schema import read_number


def parse_seeds(given: object) -> tuple[int, ...]:
    """Parses "0,1,2", "0 1 2" or a number; raises `FtlabError` for anything but whole numbers."""
    text = "" if given is None else str(given)
    try:
        return tuple(
            int(read_number("Seed", part, whole=True)) for part in text.replace(",", " ").split()
        )
    except FtlabError:
        raise FtlabError(f"Seeds '{text[:40]}' must be whole numbers, as in 0 or 0,1,2.") from None


def problems_of_seeds(seeds: Sequence[int]) -> Iterator[str]:
    """An error message for missing and repeated seeds, and for each one out of range."""
    if not seeds:
        yield "No seed is given; give at least one, as in 0 or 0,1,2."
    counts = Counter(seeds)
    repeated = [seed for seed, times in counts.items() if times > 1]
    if len(repeated) > 1:
        named = join_names([str(seed) for seed in repeated])
        yield f"Seeds {named} are given more than once; give each seed once, as in 0,1,2."
    elif repeated:
        times = counts[repeated[0]]
        often = "twice" if times == 2 else f"{times} times"
        yield f"Seed {repeated[0]} is given {often}; give each seed once, as in 0 or 0,1,2."
    for seed in seeds:
        if not 0 <= seed < 2**32:
            yield f"Seed {seed} must lie between 0 and {2**32 - 1}."


def problems_of_device(device_id: str) -> Iterator[str]:
    """An error message for a device that is not on this machine, or that torch cannot use."""
    try:
        device = resolve_device(device_id)
    except FtlabError as error:
        yield str(error)
        return
    too_old = why_driver_is_too_old() if device.is_cuda else ""
    if too_old:
        yield f"{device.id}: {too_old} Or choose the device cpu."


MEMORY_LIMIT_VARIABLE = "FTLAB_MEMORY_LIMIT"
"""The operator's limit, for every run that is queued by a process with this variable."""

_LEAST = 64_000_000
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?I?B?)", re.IGNORECASE)


def parse_memory_limit(text: str) -> int:
    """Parses "2GB", "512 MB" or "1.5GiB" to bytes; raises `FtlabError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    factor = _UNITS.get(unit) or _UNITS.get(f"{unit}B")  # "2G" is 2 GB
    if match is None or factor is None:
        raise FtlabError(
            f"The memory limit '{text[:40]}' is no size; give a number with its unit, as in 2GB."
        )
    size = round(float(match[1]) * factor)
    if size < _LEAST:
        raise FtlabError(
            f"The memory limit '{text[:40]}' is below 64 MB, in which nothing can be trained; "
            "give more, as in 2GB."
        )
    return size
