"""What full fine-tuning changed in one weight matrix, and how much of it a rank would hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftlab.errors import FtlabError
from ftlab.learn.low_rank import Values
from ftlab.learn.tensors import open_tensors
from ftlab.models.safetensors_header import DTYPE_BYTES

MAX_SIDE = 2048
"""The SVD takes the cube of the shorter side: above this it would be waited for."""


@dataclass(frozen=True)
class FullChange:
    """All singular values of the change, in falling order; `bits` of a number in the tuned file."""

    values: Values
    bits: int


def full_change(base: Path, tuned: Path, module: str) -> FullChange:
    """tuned − base for the weight of one module, taken apart.

    `base` and `tuned` are folders of safetensors. Only that matrix is read, by memory map. Raises
    `FtlabError` if one of them lacks it, they differ in shape, or it is too large to take apart.
    """
    name = f"{module}.weight"
    before, after = open_tensors(base), open_tensors(tuned)
    shape = before.shape(name)
    if after.shape(name) != shape or len(shape) != 2:
        raise FtlabError(
            f"'{module[:80]}' is {_size(shape)} in the base and {_size(after.shape(name))} in the "
            "full fine-tuning, so they are not of one model; choose another run."
        )
    if min(shape) > MAX_SIDE:
        raise FtlabError(
            f"'{module[:80]}' is {_size(shape)}, too large to be taken apart while you wait (at "
            f"most {MAX_SIDE:,} on its shorter side); choose a smaller matrix."
        )
    change = after.read(name) - before.read(name)
    if not np.isfinite(change).all():
        raise FtlabError(
            f"The full fine-tuning's '{module[:80]}' holds a number that is none: its training "
            "went astray; choose another run."
        )
    values = np.linalg.svdvals(change).astype(np.float64)
    return FullChange(values, 8 * DTYPE_BYTES[after.entry(name).dtype])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)
