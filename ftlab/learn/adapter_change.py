"""What a LoRA adapter changes, matrix by matrix: the singular values of ΔW = s·B·A."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftlab.errors import FtlabError
from ftlab.learn.lora import Lora, open_lora
from ftlab.learn.low_rank import Values, effective_rank, product_values, stored
from ftlab.models.safetensors_header import DTYPE_BYTES

_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks|layer)\.(\d+)\.(.+)")

OUTSIDE = -1
"""The layer of a matrix that stands outside the layers, such as the one before the vocabulary."""


@dataclass(frozen=True)
class MatrixChange:
    """ΔW (m x n) of one weight matrix; `values` are its singular values, at most `rank` of them.

    `module` is the matrix's full name in the base model.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    scale: float
    values: Values

    @property
    def layer(self) -> int:
        match = _LAYER.fullmatch(self.module)
        return int(match[1]) if match else OUTSIDE

    @property
    def part(self) -> str:
        """What it is within its layer, as in "q_proj"."""
        match = _LAYER.fullmatch(self.module)
        return (match[2] if match else self.module).rpartition(".")[2]

    @property
    def name(self) -> str:
        """Short, as in "layers.12.q_proj"."""
        return self.part if self.layer == OUTSIDE else f"layers.{self.layer}.{self.part}"

    @property
    def size(self) -> float:
        """Frobenius norm of ΔW."""
        return float(np.sqrt(np.square(self.values).sum()))

    @property
    def effective_rank(self) -> float:
        return effective_rank(self.values)

    @property
    def numbers(self) -> int:
        """Numbers in B and A."""
        return stored(self.shape, self.rank)


@dataclass(frozen=True)
class AdapterChange:
    """The matrices that an adapter changes, layer by layer; `number_bytes` is what one number of
    its file takes. Of two matrices that a layer calls the same (attention and cross-attention) the
    second is among the `left_out`."""

    matrices: tuple[MatrixChange, ...]
    number_bytes: int = 4
    left_out: int = 0
    rank_stabilised: bool = False

    def find(self, layer: int, part: str) -> MatrixChange:
        """The matrix of that name in that layer; else another of the layer; else the first."""
        same_layer = [m for m in self.matrices if m.layer == layer]
        named = [m for m in same_layer if m.part == part]
        return (named or same_layer or list(self.matrices))[0]

    @property
    def layers(self) -> list[int]:
        return list(dict.fromkeys(m.layer for m in self.matrices))

    def parts(self, layer: int) -> list[str]:
        return [m.part for m in self.matrices if m.layer == layer]


def read_adapter(folder: Path) -> AdapterChange:
    """The change of every matrix that the adapter in that folder lays something over.

    Raises `FtlabError` if it is no LoRA, or a file of it is missing or broken.
    """
    lora = open_lora(folder)
    matrices = [_matrix(lora, weight) for weight in lora.weights]
    named: dict[tuple[int, str], MatrixChange] = {}
    for matrix in sorted(matrices, key=lambda m: (m.layer == OUTSIDE, m.layer)):
        named.setdefault((matrix.layer, matrix.part), matrix)
    return AdapterChange(
        tuple(named.values()),
        max(DTYPE_BYTES[entry.dtype] for entry in lora.tensors.entries.values()),
        len(matrices) - len(named),
        bool(lora.config.get("use_rslora")),
    )


def _matrix(lora: Lora, weight: str) -> MatrixChange:
    module = weight.removesuffix(".weight")
    pair = lora.pair(weight)
    if not (np.isfinite(pair.up).all() and np.isfinite(pair.down).all()):
        raise FtlabError(
            f"The adapter's B or A of '{module[:80]}' holds a number that is none: its training "
            "went astray; choose another."
        )
    return MatrixChange(
        module,
        (pair.up.shape[0], pair.down.shape[1]),
        pair.rank,
        pair.scale,
        abs(pair.scale) * product_values(pair.up, pair.down),
    )
