"""What is known of an adapter and a base model on this machine: whether their sizes fit, and
whether a folder that the adapter names holds the very weights of that base."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.methods.peft_rules import Refused, read_object
from ftlab.methods.shape import ModelShape
from ftlab.models.reference import BUNDLED_ID, model_label, parse_model
from ftlab.models.resolve import ResolvedModel, local_folder
from ftlab.models.safetensors_header import read_header
from ftlab.models.shape import shape_of_model
from ftlab.playground.fitting import Tensors, misfit
from ftlab.words import plural

_MAX_CONFIG_BYTES = 2**20
_KEPT = 200

_Files = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class _Base:
    """A base's shape, as a key: `shape_of_model` keeps one of it as long as its files are the
    same, and to compare two by all their weights would take longer than to ask anew."""

    shape: ModelShape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Base) and other.shape is self.shape

    def __hash__(self) -> int:
        return id(self.shape)


def why_not_on(files: tuple[Path, Path], model: str) -> str | None:
    """Why the adapter of these two files (configuration, weights) cannot be on that base, as a
    clause; "" if it can. `None` where that is not known: the base is not here, or a file is gone.
    """
    shape = shape_of_model(model)
    if shape is None:
        return None
    try:
        return _misfit(_stamps(files), _Base(shape))
    except (FtlabError, Refused, OSError):
        return None  # said when it is put on


def count_tensors(files: tuple[Path, Path]) -> int:
    """Of the adapter whose files these are; 0 where they cannot be read."""
    try:
        return len(_read(_stamps(files)).shapes)
    except (FtlabError, Refused, OSError):
        return 0


def _stamps(files: tuple[Path, Path]) -> _Files:
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=_KEPT)
def _misfit(stamps: _Files, base: _Base) -> str:
    return misfit(_read(stamps), base.shape)


@lru_cache(maxsize=64)
def _read(stamps: _Files) -> Tensors:
    """Cached by the files and the times of their last change."""
    (config, _), (weights, _) = stamps
    with Path(config).open("rb") as stream:
        found = read_object(stream.read(_MAX_CONFIG_BYTES))
    with Path(weights).open("rb") as stream:
        return Tensors(found, read_header(stream, Path(weights).name).shapes)


def fitting_words(tensors: int, model: str) -> str:
    """As in "its 210 tensors fit SmolLM2-135M-Instruct"."""
    fit = "fits" if tensors == 1 else "fit"
    return f"its {plural(tensors, 'tensor')} {fit} {base_name(model)}"


def base_name(model: str) -> str:
    """The base's name for a sentence: no folder of this machine, and no owner of ours."""
    return BUNDLED_ID.rpartition("/")[2] if model in ("bundled", BUNDLED_ID) else model_label(model)


def is_the_same(place: str, model: str) -> bool:
    """Whether the folder at `place` is that of the base, or holds the very same weights.

    Both are hashed only if their files are of the same sizes.
    """
    try:
        here = parse_model(place)
        folder = local_folder(parse_model(model))
        if here.kind != "folder" or folder is None:
            return False
        other = Path(here.name)
        if other.resolve() == folder.resolve():
            return True
        return _sizes(other) == _sizes(folder) and (
            ResolvedModel(here, other).fingerprint() == ResolvedModel(here, folder).fingerprint()
        )
    except (FtlabError, OSError, ValueError):
        return False


def _sizes(folder: Path) -> list[int]:
    """Of the weight files, in the order of their names."""
    return [file.stat().st_size for file in sorted(folder.glob("*.safetensors"))]
