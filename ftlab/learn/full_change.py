"""What full fine-tuning did to every weight, and what it holds for each while it trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftlab.errors import FtlabError
from ftlab.learn.tensors import Tensors
from ftlab.settings.training import DtypePolicy, Optimizer

_AT_ONCE = 2**20  # numbers of a tensor that are held as float32 at a time
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EIGHT_BIT = 1 + 4 / 256  # bitsandbytes: a byte each, and one float32 for every 256 of them


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes held for each weight that learns, from forward pass to the optimizer's step."""

    weight: float
    gradient: float
    first_moment: float
    second_moment: float

    @property
    def total(self) -> float:
        return self.weight + self.gradient + self.first_moment + self.second_moment


def training_bytes(
    policy: DtypePolicy, optimizer: Optimizer = "adamw", adapter: bool = False
) -> TrainingBytes:
    """By the dtype policy: weight, gradient and AdamW's two moments (arXiv 1711.05101).

    Weights that learn are bf16 only in full fine-tuning under `bf16`; adapters always have fp32
    masters. A gradient has its weight's type, and so have torch's moments; 8-bit AdamW (arXiv
    2110.02861) holds a moment in a byte plus its share of a block's scale.
    """
    size = 2.0 if policy == "bf16" and not adapter else 4.0
    moment = size if optimizer == "adamw" else _EIGHT_BIT
    return TrainingBytes(size, size, moment, moment)


def tensor_changes(base: Tensors, tuned: Tensors) -> pd.DataFrame:
    """One row a tensor: `tensor`, `layer` (NaN: none), `numbers`, `changed`, `moved`, `size`.

    `changed` counts the numbers that differ at all as they are stored; `moved` and `size` are the
    squared Frobenius norms of the change and of the base's tensor. Never more than a few MB of a
    tensor are held. Raises `FtlabError` if the two are not of one shape.
    """
    shared = [name for name in base.names if name in tuned.entries]
    if not shared:
        raise FtlabError("The run's model and its base have no tensor in common; train it again.")
    rows = []
    for name in shared:
        if base.shape(name) != tuned.shape(name):
            raise FtlabError(
                f"'{name}' has the shape {tuned.shape(name)} in the run and {base.shape(name)} in "
                "its base model, so they are of different models."
            )
        changed, moved, size, numbers = 0, 0.0, 0.0, 0
        for before, after in _pieces(base, tuned, name):
            change = after - before
            changed += int(np.count_nonzero(change))
            moved += float(np.vdot(change, change))
            size += float(np.vdot(before, before))
            numbers += before.size
        match = _LAYER.search(name)
        rows.append([name, int(match[1]) if match else None, numbers, changed, moved, size])
    frame = pd.DataFrame(rows, columns=["tensor", "layer", "numbers", "changed", "moved", "size"])
    return frame.astype({"layer": float})


def layer_changes(tensors: pd.DataFrame) -> pd.DataFrame:
    """One row a part of the model, first to last: `part`, `numbers`, `share`, `relative`.

    `share` of the numbers changed at all; `relative` is the Frobenius norm of the change over that
    of the base. Parts are the embeddings, every layer, and what stands outside of them.
    """
    outside = np.where(tensors["tensor"].str.contains("embed|wte|wpe"), -1.0, np.inf)
    place = tensors["layer"].where(tensors["layer"].notna(), pd.Series(outside, tensors.index))
    sums = tensors.groupby(place)[["numbers", "changed", "moved", "size"]].sum().sort_index()
    return pd.DataFrame(
        {
            "part": [_part(float(key)) for key in sums.index],
            "numbers": sums["numbers"].to_numpy(),
            "share": (sums["changed"] / sums["numbers"]).to_numpy(),
            "relative": np.sqrt(sums["moved"] / sums["size"].where(sums["size"] > 0)).to_numpy(),
        }
    )


def overall(tensors: pd.DataFrame) -> tuple[float, float]:
    """`(share, relative)` of the whole model, as in `layer_changes`."""
    size = float(tensors["size"].sum())
    relative = float(np.sqrt(tensors["moved"].sum() / size)) if size else float("nan")
    return float(tensors["changed"].sum() / tensors["numbers"].sum()), relative


def _part(place: float) -> str:
    if place < 0:
        return "embeddings"
    return "last norm" if np.isinf(place) else f"layer {place:.0f}"


def _pieces(
    base: Tensors, tuned: Tensors, name: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    rows, *rest = (*base.shape(name), 1)
    step = max(1, _AT_ONCE // max(1, int(np.prod(rest))))
    for start in range(0, rows, step):
        yield base.rows(name, start, start + step), tuned.rows(name, start, start + step)
