"""The dimensions of a model, local or of the shipped catalogue: names and sizes of its weights.

Only the headers of its safetensors files are read, without torch and without the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder
from ftlab.methods.dimensions import ModelShape, shape_from
from ftlab.methods.rates import TUNED_ON, ModelSize, size_of
from ftlab.models.files import read_header, read_model_json
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ResolvedModel, local_folder


@dataclass(frozen=True)
class KnownModel:
    """`config` is the shape part of its config.json; `parameters` is the published count.

    GPT-3 was never published as a file: its entry has GPT-2's layers in the sizes of its paper
    (Brown et al. 2020, table 2.1).
    """

    id: str
    label: str
    parameters: int
    config: dict[str, Any]

    @property
    def is_on_hub(self) -> bool:
        """Whether its id is a Hugging Face Hub id, so that it can be downloaded and trained."""
        return "/" in self.id


@lru_cache(maxsize=1)
def catalogue() -> tuple[KnownModel, ...]:
    rows = json.loads((assets_folder() / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(KnownModel(**row) for row in rows)


def is_known_config(config: Mapping[str, Any]) -> bool:
    """Whether it equals the config of a model in the catalogue."""
    return any(config == model.config for model in catalogue())


def known_model(name: str) -> KnownModel | None:
    """The model with that id, last part of an id, or label; ignores case."""
    wanted = name.strip().lower()
    for model in catalogue():
        if wanted in (model.id.lower(), model.id.lower().rpartition("/")[2], model.label.lower()):
            return model
    return None


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
