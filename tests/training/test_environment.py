"""What a record says of the card that a run was measured on; torch and driver are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftlab.basics import nvml
from ftlab.training.machine import describe_environment


def test_driver_capability_cudnn_and_allocator_settings_of_a_card_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, answer in {
        "get_device_name": "NVIDIA L4",
        "get_device_capability": (8, 9),
        "get_device_properties": SimpleNamespace(uuid="12-34"),
        "device_count": 1,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91_002)
    monkeypatch.setattr(nvml, "driver", lambda: nvml.Driver("580.82", (13, 0)))
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-12-34")
    facts = describe_environment(torch.device("cuda", 0))
    assert facts["device"] == "NVIDIA L4"
    assert (facts["driver"], facts["capability"], facts["cudnn"]) == ("580.82", "8.9", 91_002)
    assert facts["gpu_settings"]["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "CUDA_VISIBLE_DEVICES" not in facts["gpu_settings"], "equal cards are like for like"
    assert (facts["uuid"], facts["gpus_visible"]) == ("GPU-12-34", 1)


def test_of_a_cpu_nothing_is_said_of_a_card() -> None:
    assert not {"driver", "capability", "cudnn"} & describe_environment(torch.device("cpu")).keys()
