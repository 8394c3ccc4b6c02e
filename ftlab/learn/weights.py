"""The base model's folder on this machine, and how its weight matrices are named."""

from __future__ import annotations

import re
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.models.bundled import bundled_folder, is_fetched
from ftlab.models.reference import model_label, parse_model

FETCH = "The bundled model is not on this machine yet: run `python -m ftlab model` once."

_MATRIX = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj)\.weight")


def base_folder(model: str) -> Path:
    """The folder of a model that is already on this machine; nothing is fetched.

    Raises `FtlabError` with what to do if it is not there.
    """
    reference = parse_model(model)
    if reference.kind == "bundled":
        if not is_fetched():
            raise FtlabError(FETCH)
        return bundled_folder()
    if reference.kind == "folder":
        return Path(reference.name)
    return _in_hub_cache(reference.name)


def matrices(names: tuple[str, ...]) -> dict[tuple[int, str], str]:
    """(layer, module) -> tensor name of each projection, as in (12, "q_proj"), layer by layer."""
    found = {}
    for name in names:
        match = _MATRIX.fullmatch(name)
        if match:
            found[int(match[1]), match[2]] = name
    return dict(sorted(found.items()))


def _in_hub_cache(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # whatever is wrong with the cache, the way out is the same
        raise FtlabError(
            f"The weights of '{model_label(name)}' are not on this machine; train on it once, or "
            "choose a run of another model."
        ) from None
