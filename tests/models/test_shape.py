"""The shape of a model on this machine, read from its files without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from ftlab.models.dimensions import shape_of_model
from ftlab.training.model import shape_of


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_files_say_what_the_loaded_model_says(tiny_model: Path) -> None:
    shape = shape_of_model(str(tiny_model))
    assert asdict(shape) == asdict(shape_of(AutoModelForCausalLM.from_pretrained(tiny_model)))
    assert shape is not None
    assert (shape.architecture, shape.layers, shape.hidden, shape.key_width) == ("llama", 2, 64, 32)
    assert shape.positions == 2048
    assert len(shape.linears) == 2 * 7


def test_a_model_in_several_files_is_read_whole(folder: Path, tiny_model: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = list(weights)
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((names[:5], names[5:])):
        file = f"model-{number}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    shape = shape_of_model(str(folder))
    assert asdict(shape) == asdict(shape_of_model(str(tiny_model)))
    (folder / "model-1.safetensors").unlink()
    assert shape_of_model(str(folder)) is None


def test_tied_embeddings_that_were_saved_twice_count_once(folder: Path, tiny_model: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, folder / "model.safetensors")
    whole = shape_of_model(str(tiny_model))
    shape = shape_of_model(str(folder))
    assert whole is not None
    assert shape is not None
    assert shape.total == whole.total


def test_a_file_that_has_changed_is_read_anew(folder: Path) -> None:
    assert shape_of_model(str(folder)) is not None
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")
    stamp = (folder / "config.json").stat().st_mtime_ns + 10**9
    os.utime(folder / "model.safetensors", ns=(stamp, stamp))
    shape = shape_of_model(str(folder))
    assert shape is not None
    assert shape.biases == ("model.layers.0.self_attn.q_proj.bias",)


@pytest.mark.parametrize("part", ["quantization_config", "vision_config"])
def test_files_that_hold_more_or_other_than_the_language_model_give_no_shape(
    folder: Path, part: str
) -> None:
    change_config(folder, **{part: {"bits": 4}})
    assert shape_of_model(str(folder)) is None


@pytest.mark.parametrize(
    "name", ["someone/a-model-that-is-not-here", "/no/such/folder", "a/b/c", ""]
)
def test_a_model_that_is_not_here_has_no_shape_and_raises_nothing(name: str) -> None:
    assert shape_of_model(name) is None


def test_a_damaged_file_has_no_shape(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{")
    assert shape_of_model(str(folder)) is None


def test_a_hub_model_in_the_cache_is_read_without_the_network(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--someone--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots").mkdir()
    folder.rename(cache / "snapshots" / "abc")
    code = (
        "import socket, sys; socket.socket.connect = None\n"
        "from ftlab.models.dimensions import shape_of_model\n"
        "print(shape_of_model('someone/model').layers, 'torch' in sys.modules)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["2", "False"]
