"""The dimensions of a local model: names and sizes of its weights.

Only the headers of its safetensors files are read, without torch and without the network.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.methods.dimensions import ModelShape, shape_from
from ftlab.methods.rates import TUNED_ON, ModelSize, size_of
from ftlab.models.catalogue import known_model
from ftlab.models.files import read_header, read_model_json
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ResolvedModel, local_folder

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_NO_WEIGHTS = re.compile(
    r"\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$|\.e_score_correction_bias$"
)
"""Tensors without gradient: GPT-2's causal mask and rotary frequencies, which the model computes
itself, and the expert balancing bias, which DeepSeek-V3 stores as a buffer."""

_OTHER_PARTS = ("quantization_config", "vision_config", "audio_config")
"""Config keys of models whose files hold other tensors than those of the trained language model:
packed tensors, or those of an encoder."""


def shape_of_model(name: str) -> ModelShape | None:
    """The shape of the model with that name (as `parse_model` reads it).

    `None` if it is not on this machine (the bundled model not converted, a Hub id not cached), and
    if its files do not show what is trained: quantised checkpoints, models with an image encoder.
    """
    try:
        folder = local_folder(parse_model(name))
        if folder is None:
            return None
        config = folder / "config.json"
        files = _weight_files(folder)
        stamps = tuple((str(path), path.stat().st_mtime_ns) for path in (config, *files))
        return _read(stamps) if files else None
    except (FtlabError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # reported when the model is checked and loaded


def _weight_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads: one file, or those listed in the index."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        return []
    index = read_model_json(folder / _INDEX)
    names = {Path(file).name for file in index["weight_map"].values()}
    return [folder / name for name in sorted(names)]


@lru_cache(maxsize=16)
def _read(stamps: tuple[tuple[str, int], ...]) -> ModelShape | None:
    """Reads the config and the headers; cached by file paths and modification times."""
    (config_file, _), *files = stamps
    config = read_model_json(Path(config_file))
    if any(config.get(key) for key in _OTHER_PARTS):
        return None
    weights: dict[str, tuple[int, ...]] = {}
    for file, _ in files:
        with Path(file).open("rb") as stream:
            weights |= read_header(stream, Path(file).name).shapes
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)  # the same tensor as the input embeddings
    kept = {key: shape for key, shape in weights.items() if not _NO_WEIGHTS.search(key)}
    return shape_from(kept, config)


def size_of_model(name: str) -> ModelSize | None:
    """The size of the model with that name (as `parse_model` reads it).

    `None` if its config is neither on this machine nor in the catalogue, or cannot be read.
    """
    try:
        reference = parse_model(name)
        if reference.kind == "bundled":
            return TUNED_ON
        folder = local_folder(reference)
        if folder is not None:
            return size_of(ResolvedModel(reference, folder).config())
    except (FtlabError, OSError, ValueError):
        return None  # reported when the model is checked and loaded
    known = known_model(reference.name)
    return None if known is None else size_of(known.config)
