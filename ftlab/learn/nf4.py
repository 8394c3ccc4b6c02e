"""Weights in 4 bits as QLoRA stores them (Dettmers et al. 2023, arXiv 2305.14314).

Weights are split into blocks of 64. A block stores one float32, its largest magnitude ("absmax"),
and for each weight the index of the nearest of 16 levels between -1 and 1, scaled by absmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import LoraPair

BLOCK = 64

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""The levels of NormalFloat4, as in bitsandbytes (`functional.get_4bit_type`).

Quantiles of the normal distribution divided by the largest one: 7 below zero, zero, 8 above zero
(section 3 of the paper; `create_normal_map` of bitsandbytes).
"""

EVEN = (np.arange(-7, 8) / 7).astype(np.float32)
"""A plain signed 4-bit integer: evenly spaced, -7 to 7. The 16th code would be a second zero."""


@dataclass(frozen=True)
class Quantised:
    """`codes`: level indices, one per weight; `absmax`: one per block; `restored`: dequantised."""

    codes: NDArray[np.uint8]
    absmax: NDArray[np.float32]
    restored: NDArray[np.float32]


@dataclass(frozen=True)
class QuantisationError:
    """Root mean square (`rms`) and `largest` of the differences, in the weights' unit.

    `relative` is `rms` divided by that of the weights (0: exact, NaN: all weights are 0)."""

    rms: float
    largest: float
    relative: float


def quantise(
    weights: NDArray[np.float32], levels: NDArray[np.float32] = NF4, block: int = BLOCK
) -> Quantised:
    """Quantises weights of any shape to the nearest levels, in blocks along rows, and dequantises.

    Uses the same float32 arithmetic as bitsandbytes on a CPU, so codes and values are the same.
    `codes` and `restored` have the weights' shape; the last block may be shorter.
    """
    flat = weights.reshape(-1)
    padded = np.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    absmax = np.abs(padded).max(axis=1)
    scaled = np.clip(padded * (np.float32(1) / np.maximum(absmax, 1e-38))[:, None], -1, 1)
    codes = np.searchsorted((levels[:-1] + levels[1:]) / 2, scaled).astype(np.uint8)
    restored = levels[codes] * absmax[:, None]
    shape, count = weights.shape, len(flat)
    return Quantised(
        codes.reshape(-1)[:count].reshape(shape),
        absmax,
        restored.reshape(-1)[:count].reshape(shape),
    )


def error_of(weights: NDArray[np.float32], restored: NDArray[np.float32]) -> QuantisationError:
    """Returns the error of the restored weights; both arrays have the same shape."""
    difference = (restored - weights).astype(np.float64)
    size = float(np.sqrt(np.mean(weights.astype(np.float64) ** 2)))
    rms = float(np.sqrt(np.mean(difference**2)))
    return QuantisationError(
        rms, float(np.abs(difference).max()), rms / size if size else float("nan")
    )


def bits_per_weight(block: int = BLOCK, double: bool = False) -> float:
    """4 bits plus the weight's share of its block's absmax (32 bits): 4.5.

    Double quantisation stores absmax in 8 bits, plus one float32 per 256 absmax values: 4.127
    (section 3 of the paper).
    """
    return 4 + (8 / block + 32 / (block * 256) if double else 32 / block)


def levels_used(codes: NDArray[np.uint8], count: int = 16) -> NDArray[np.int64]:
    """Returns how often each level is used, (count,)."""
    return np.bincount(codes.reshape(-1), minlength=count)


def normal_error(levels: NDArray[np.float32], blocks: int = 2048) -> float:
    """The relative error on samples of the normal distribution, for which NF4 is designed."""
    drawn = np.random.default_rng(0).standard_normal((blocks, BLOCK)).astype(np.float32)
    return error_of(drawn, quantise(drawn, levels).restored).relative


MERGED = ("fp32", "bf16", "nf4")
"""Formats of the merged matrix, most exact first."""

MAX_SEED = 2**32 - 1


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounds finite numbers to bfloat16 (8 significant bits, ties to even), stored as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def merged_weights(weight: NDArray[np.float32], pair: LoraPair) -> dict[str, NDArray[np.float32]]:
    """W + s·B·A, (out, in), in each of the formats of `MERGED`.

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
    """One row per output: `apart` is y = W·x + s·B·(A·x), and one column for each merged matrix.

    x is sampled with `seed` from the normal distribution. Raises `FtlabError` for an invalid seed.
    """
    if not 0 <= seed <= MAX_SEED:
        raise FtlabError(f"The seed {seed} must lie between 0 and {MAX_SEED:,}.")
    x = np.random.default_rng(seed).standard_normal(weight.shape[1:], np.float32)
    apart = weight @ x + np.float32(pair.scale) * (pair.up @ (pair.down @ x))
    return pd.DataFrame({"apart": apart} | {name: matrix @ x for name, matrix in merged.items()})


def differences(
    outputs: pd.DataFrame, weight: NDArray[np.float32], merged: dict[str, NDArray[np.float32]]
) -> pd.DataFrame:
    """One row for each of `MERGED`: `held` (the format), `largest`, `relative`, `lost`.

    `largest` is the largest difference of an output from `apart`; `relative` is `largest` divided
    by the outputs' root mean square. `lost` is the rounding error of the matrix divided by the size
    of the adapter's change (Frobenius norms; NaN: the adapter changes nothing).
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
    """Multiplications for one token and one matrix: (base and adapter separate, merged)."""
    return out * width + rank * (out + width), out * width
