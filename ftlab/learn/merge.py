"""Base and adapter apart against one merged matrix: the same output, checked on numbers.

Hu et al. 2021 (arXiv 2106.09685, section 4.1): W·x + s·B·(A·x) = (W + s·B·A)·x, so a merged
adapter costs nothing at inference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftlab.errors import FtlabError
from ftlab.learn.lora import LoraPair
from ftlab.learn.nf4 import quantise

MERGED = ("fp32", "bf16", "nf4")
"""What the merged matrix is held in, most exact first."""

MAX_SEED = 2**32 - 1


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite numbers rounded to bfloat16 (8 significant bits, ties to even), held as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def merged_weights(weight: NDArray[np.float32], pair: LoraPair) -> dict[str, NDArray[np.float32]]:
    """W + s·B·A, (out, in), as it is held in each of `MERGED`.

    Raises `FtlabError` if the adapter was made for a matrix of another shape.
    """
    wanted = (pair.up.shape[0], pair.down.shape[1])
    if weight.shape != wanted:
        raise FtlabError(
            f"The adapter changes a matrix of {wanted}, the base's is {weight.shape}: it was made "
            "for another model."
        )
    exact = weight + pair.change()
    return {"fp32": exact, "bf16": to_bf16(exact), "nf4": quantise(exact).restored}


def compare_outputs(
    weight: NDArray[np.float32],
    pair: LoraPair,
    merged: dict[str, NDArray[np.float32]],
    seed: int,
) -> pd.DataFrame:
    """One row an output: `apart` is y = W·x + s·B·(A·x), and one column for each merged matrix.

    x has as many numbers as the matrix has columns, drawn from the normal distribution by the seed.
    Raises `FtlabError` for a seed out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise FtlabError(f"The seed {seed} must lie between 0 and {MAX_SEED:,}.")
    x = np.random.default_rng(seed).standard_normal(weight.shape[1:], np.float32)
    apart = weight @ x + np.float32(pair.scale) * (pair.up @ (pair.down @ x))
    return pd.DataFrame({"apart": apart} | {name: matrix @ x for name, matrix in merged.items()})


def differences(
    outputs: pd.DataFrame, weight: NDArray[np.float32], merged: dict[str, NDArray[np.float32]]
) -> pd.DataFrame:
    """One row for each of `MERGED`: `held`, `largest`, `relative`, `lost`.

    `largest` difference of an output from `apart`; `relative` to the outputs' root mean square;
    `lost` is the rounding of the matrix over the size of the adapter's change (Frobenius norms;
    NaN: the adapter changes nothing).
    """
    apart = outputs["apart"].to_numpy()
    size = float(np.sqrt(np.mean(apart**2)))
    change = float(np.linalg.norm(merged["fp32"] - weight))
    rows = []
    for held in MERGED:
        largest = float(np.abs(outputs[held].to_numpy() - apart).max())
        rounding = float(np.linalg.norm(merged[held] - merged["fp32"]))
        rows.append(
            [
                held,
                largest,
                largest / size if size else float("nan"),
                rounding / change if change else float("nan"),
            ]
        )
    return pd.DataFrame(rows, columns=["held", "largest", "relative", "lost"])


def multiplications(out: int, width: int, rank: int) -> tuple[int, int]:
    """For one token through one matrix: (base and adapter apart, merged)."""
    return out * width + rank * (out + width), out * width
