"""Sweeps that are packed, and packed files that somebody changed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.pack import MANIFEST, pack_sweep
from tests.fakes import SWEEP, make_sweep
from tests.playground.adapters import adapter_folder

LORA = f"{SWEEP}-02-lora"


def packed_sweep(folder: Path, adapters: bool = False, **run: Any) -> Path:
    """A packed sweep of full fine-tuning and LoRA with one base run."""
    *_, lora = make_sweep(folder / "there", ("full", "lora"), **run)
    if adapters:
        adapter_folder(lora.adapter)
    return pack(folder / "there", folder / "sweep.zip", adapters)


def pack(runs: Path, target: Path, adapters: bool = False) -> Path:
    pack_sweep(sweep_data(RunStore(runs), SWEEP), target, adapters)
    return target


def entries(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(archive: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any] = {}) -> Path:
    """Writes the files with a manifest that fits them, changed by `manifest`."""
    described = {
        "format": "ftlab sweep",
        "version": 1,
        "ftlab_version": "0.1.0",
        "sweep_id": SWEEP,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
            if name != MANIFEST
        },
    } | manifest
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            if name != MANIFEST:
                file.writestr(name, data)
        file.writestr(MANIFEST, json.dumps(described))
    return archive


def changed(archive: Path, name: str, **values: Any) -> Path:
    """The archive with other values in that JSON file, and a manifest that fits."""
    files = entries(archive)
    files[name] = json.dumps(json.loads(files[name]) | values).encode()
    return write(archive, files)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def opened_runs(runs: Path) -> list[RunDirectory]:
    return [run.directory for run in RunStore(runs).opened()]
