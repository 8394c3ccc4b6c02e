"""Adapters and models with known numbers, written as safetensors by numpy."""

import json

import numpy as np
from safetensors.numpy import save_file

from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from tests.playground.adapters import config_bytes

ATTENTION = "model.layers.{}.self_attn.{}"


def factors(module, b, a):
    start = f"base_model.model.{module}"
    return {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}


def write_lora(folder, tensors, **config):
    """`tensors` by their names in the file; `config` laid over a plain LoRA's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(config_bytes(**config))
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def write_model(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def some(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
