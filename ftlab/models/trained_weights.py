"""The weights of a model that learnt where the others were frozen: all that has to be shipped.

A folder with `trained_weights.safetensors`, tensors by their names in the model, and
`trained_weights.json`, which names the base that they belong to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from ftlab.errors import FtlabError

WEIGHTS = "trained_weights.safetensors"
FACTS = "trained_weights.json"


def save_trained_weights(model: PreTrainedModel, method: str, folder: Path) -> None:
    """Writes the parameters that require a gradient, and whose they are."""
    learnt = {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(learnt, folder / WEIGHTS, metadata={"format": "pt"})
    facts = {"base_model_name_or_path": model.name_or_path, "method": method}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def put_trained_weights(model: nn.Module, folder: Path) -> None:
    """Gives the model new parameters with the saved values; those it had are not written into.

    So a clone that shares its parameters with another model changes alone. Raises `FtlabError` if
    a name or a shape is not the model's, and then nothing is changed.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    own = dict(model.named_parameters())
    for name, tensor in saved.items():
        if name not in own or own[name].shape != tensor.shape:
            raise FtlabError(
                f"The saved weight {name} of shape {tuple(tensor.shape)} has no place in this "
                "model; it is made for another model, so choose another."
            )
        if not tensor.isfinite().all():
            raise FtlabError(
                f"The saved weight {name} holds values that are no numbers (NaN or infinity): its "
                "training went astray, so choose another."
            )
    for name, tensor in saved.items():
        path, _, last = name.rpartition(".")
        held: Any = own[name]
        module: Any = model.get_submodule(path)
        parameter = nn.Parameter(tensor.to(held.device, held.dtype), requires_grad=False)
        setattr(module, last, parameter)


def is_trained_weights(folder: Path) -> bool:
    return (folder / FACTS).is_file()
