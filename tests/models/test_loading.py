"""Loading a base model: what stays in memory, and the dtypes of weights and products."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from ftlab.models import loading
from ftlab.models.loading import compute_dtype, give_back_memory, load_base_model, weight_dtype
from ftlab.models.resolve import resolve_model
from ftlab.training.step import Arithmetic
from tests.tiny import make_tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


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


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cuda:0", None, {"": torch.device("cuda", 0)}),
        ("mps", None, {"": torch.device("mps")}),
        ("cuda:0", "nf4", {"": torch.device("cuda", 0)}),
        ("cpu", None, None),
    ],
)
def test_weights_go_from_their_file_to_the_device_and_no_copy_is_made_on_the_way(
    device: str,
    precision: Any,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = resolve_model(str(make_tiny_model(tmp_path / "tiny")))
    model = LlamaForCausalLM(AutoConfig.from_pretrained(source.folder))
    asked: dict[str, Any] = {}

    def load(folder: Path, **options: Any) -> Any:
        asked.update(options)
        return model

    def moved(*_: Any) -> None:
        raise AssertionError("the model was moved after it was loaded")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(loading, "use_kernels", lambda device: None)
    monkeypatch.setattr(loading, "compute_dtype", lambda policy, device: torch.bfloat16)
    monkeypatch.setattr(model, "to", moved)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert load_base_model(source, "bf16", precision, torch.device(device)) is model
    assert asked.get("device_map") == expected
    assert asked["dtype"] is torch.bfloat16
    assert asked["use_kernels"] is False, "layers would be replaced by code from the Hub"
    stayed = [p.data_ptr() for p in model.parameters()] == places
    assert stayed == (device != "cpu" or precision is None), "a copy leaves a hole on a GPU"


@pytest.mark.parametrize(("kind", "told"), [("cuda", ["cuda"]), ("mps", ["mps"]), ("cpu", [])])
def test_the_cache_of_torch_is_emptied_on_every_gpu(
    kind: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for module in ("cuda", "mps"):
        monkeypatch.setattr(f"torch.{module}.empty_cache", partial(asked.append, module))
    give_back_memory(torch.device(kind))
    assert asked == told


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4: torch says that it can do bf16 only if emulation counts."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


def test_the_cpu_computes_in_bf16_but_for_fp32() -> None:
    assert compute_dtype("bf16", CPU) is torch.bfloat16
    assert compute_dtype("mixed", CPU) is torch.bfloat16
    assert compute_dtype("fp32", CPU) is torch.float32
    assert weight_dtype("bf16", CPU, weights_learn=True) is torch.bfloat16
    assert weight_dtype("mixed", CPU, weights_learn=True) is torch.float32


@pytest.mark.usefixtures("with_bf16")
def test_a_gpu_with_bf16_needs_no_gradient_scaler() -> None:
    assert compute_dtype("bf16", CUDA) is torch.bfloat16
    assert not Arithmetic("mixed", CUDA).needs_grad_scaler


@pytest.mark.usefixtures("without_bf16")
def test_a_gpu_without_bf16_computes_in_fp16_and_trains_no_fp16_weight() -> None:
    assert compute_dtype("bf16", CUDA) is torch.float16
    assert Arithmetic("bf16", CUDA).needs_grad_scaler
    assert weight_dtype("bf16", CUDA, weights_learn=False) is torch.float16
    assert weight_dtype("bf16", CUDA, weights_learn=True) is torch.float32
    assert not Arithmetic("fp32", CUDA).needs_grad_scaler
