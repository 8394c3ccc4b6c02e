"""The size of a safetensors file, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ftlab.prediction.simulation.step import safetensors_bytes

TENSORS = {
    "base_model.model.b.weight": torch.zeros(3, 5),
    "a": torch.zeros(7, dtype=torch.bfloat16),
    "c": torch.zeros(0, 4),
    "d.mask": torch.zeros(2, 2, 2, dtype=torch.int32),
    "e": torch.zeros((), dtype=torch.float16),
    "f": torch.zeros(9, dtype=torch.int64),
    "g": torch.zeros(3, dtype=torch.uint8),
}


@pytest.mark.parametrize("count", range(len(TENSORS) + 1))
def test_the_size_is_that_of_the_file_that_safetensors_writes(count: int, tmp_path: Path) -> None:
    tensors = dict(list(TENSORS.items())[:count])
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert safetensors_bytes(tensors) == (tmp_path / "x.safetensors").stat().st_size
