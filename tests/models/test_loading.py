"""What a loaded base model holds on to."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model
from tests.conftest import make_tiny_model

CPU = torch.device("cpu")


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_4_bit_model_no_longer_holds_the_file_of_its_16_bit_weights(tmp_path: Path) -> None:
    source = resolve_model(str(make_tiny_model(tmp_path / "tiny", dtype="bfloat16")))
    weights = str(source.folder / "model.safetensors")
    plain = load_base_model(source, "bf16", None, CPU)
    assert weights in mapped_files()  # its weights are the file's
    del plain
    gc.collect()
    quantised = load_base_model(source, "bf16", "nf4", CPU)
    gc.collect()
    assert weights not in mapped_files()
    assert quantised.model.embed_tokens.weight.dtype is torch.bfloat16
    assert quantised.lm_head.weight is quantised.model.embed_tokens.weight
