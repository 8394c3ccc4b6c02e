"""Small adapters built by hand, as folders and zips; edits of saved ones; refused uploads."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.panes import uploaded_folder
from ftlab.playground.uploaded import upload_adapter

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "layers_to_transform": [0],
}
_LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES: dict[str, list[int]] = {
    f"{_LAYER}.lora_A.weight": [2, 576],
    f"{_LAYER}.lora_B.weight": [576, 2],
}
"""One layer of the bundled model."""


def weights(
    shapes: dict[str, list[int]] | None = None, dtype: str = "BF16", fill: int = 1
) -> bytes:
    """A whole safetensors file with two-byte numbers that all have the bytes `fill`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in (SHAPES if shapes is None else shapes).items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return with_header(json.dumps(header).encode(), bytes([fill]) * end)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def config_bytes(**changes: Any) -> bytes:
    """The configuration with changes; a value of `...` removes its key."""
    config = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    return json.dumps(config).encode()


def adapter_folder(folder: Path, config: bytes | None = None, tensors: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config_bytes() if config is None else config)
    (folder / "adapter_model.safetensors").write_bytes(weights() if tensors is None else tensors)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """A value of `...` removes its key."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """`edit` changes the tensors by name."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, file, metadata={"format": "pt"})


def base_folder(folder: Path, width: int = 4, layers: int = 1) -> Path:
    """A llama of these sizes whose weights are all the same number."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [32, width]}
    for number in range(layers):
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"):
            shapes[f"model.layers.{number}.{name}.weight"] = [width, width]
    config = {"model_type": "llama", "hidden_size": width, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights(shapes))
    return folder


def adapter_zip(path: Path, entries: dict[str, bytes] | None = None, below: str = "") -> Path:
    """A zip of the entries; by default, of a good adapter in the folder `below`."""
    if entries is None:
        entries = {
            f"{below}adapter_config.json": config_bytes(),
            f"{below}adapter_model.safetensors": weights(),
        }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def refused(source: Path, runs: Path, base: str | None = None) -> str:
    """The sentence with which the source is refused; no file of it is left."""
    before = sorted(runs.parent.rglob("*"))
    with pytest.raises(FtlabError) as error:
        upload_adapter(source, runs, base=base)
    folder = uploaded_folder(runs)
    assert not folder.exists() or not any(folder.iterdir())
    added = set(runs.parent.rglob("*")) - {*before, runs, runs / ".ftlab", folder}
    assert not added
    sentence = str(error.value)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert str(source.parent) not in sentence
    return sentence
