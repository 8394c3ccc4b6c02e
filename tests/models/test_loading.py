"""What a loaded base model holds on to."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from ftlab.models import loading
from ftlab.models.loading import give_back_memory, load_base_model
from ftlab.models.resolve import resolve_model
from tests.tiny import make_tiny_model

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
    monkeypatch.setattr(loading, "use_attention", lambda device: None)
    monkeypatch.setattr(loading, "compute_dtype", lambda policy, device: torch.bfloat16)
    monkeypatch.setattr(model, "to", moved)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert load_base_model(source, "bf16", precision, torch.device(device)) is model
    assert asked.get("device_map") == expected
    assert asked["dtype"] is torch.bfloat16
    stayed = [p.data_ptr() for p in model.parameters()] == places
    assert stayed == (device != "cpu" or precision is None), "a copy leaves a hole on a GPU"


@pytest.mark.parametrize(("kind", "told"), [("cuda", ["cuda"]), ("mps", ["mps"]), ("cpu", [])])
def test_memory_is_given_back_to_every_device_that_torch_keeps_some_of(
    kind: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for module in ("cuda", "mps"):
        monkeypatch.setattr(f"torch.{module}.empty_cache", partial(asked.append, module))
    give_back_memory(torch.device(kind))
    assert asked == told
