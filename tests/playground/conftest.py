"""A tiny random base model and finished runs on it, made in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.runs.directory import RunDirectory
from tests.conftest import make_tiny_model
from tests.fakes import make_run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide weights, so that answers differ, and a context that a prompt can exceed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return make_tiny_model(folder, context=128, spread=0.3, dtype="bfloat16")


@pytest.fixture(scope="session")
def save_adapter(tiny_model: Path) -> Callable[..., None]:
    """Saves a random adapter of the method into a folder."""

    def save(method: str, target: Path, seed: int = 1, **config: Any) -> None:
        import torch
        from peft import LoraConfig, PromptTuningConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
        if method == "full":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            model.save_pretrained(target)
            return
        settings: dict[str, Any] = {"task_type": "CAUSAL_LM", **config}
        if method == "prompt_tuning":
            made = get_peft_model(
                model, PromptTuningConfig(**({"num_virtual_tokens": 5} | settings))
            )
        else:
            lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | settings
            made = get_peft_model(model, LoraConfig(**lora))
        made.save_pretrained(target)

    return save


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, with device locks of its own."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "runs"


@pytest.fixture
def add_run(
    runs_folder: Path, tiny_model: Path, save_adapter: Callable[..., None]
) -> Callable[..., RunDirectory]:
    """Makes a finished run of a method on the tiny model, with a real adapter."""

    def add(method: str, seed: int = 1, **config: Any) -> RunDirectory:
        directory = make_run(runs_folder, method, model=str(tiny_model))
        save_adapter(method, directory.adapter, seed, **config)
        return directory

    return add
