"""A plain LoRA out of PEFT's files, matrix by matrix, without PEFT.

Hu et al. 2021 (arXiv 2106.09685): a frozen W of shape (out, in) becomes W + s·B·A, with A of
(r, in), B of (out, r) and s = alpha / r, or alpha / sqrt(r) in rsLoRA (arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.errors import FtlabError
from ftlab.learn.tensors import Tensors, open_tensors
from ftlab.playground.adapter_config import check_config
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE

_NAME = re.compile(r"[\w.]+")
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

_NOT_PLAIN = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out",
    "alora_invocation_tokens", "monteclora_config", "velora_config",
)  # fmt: skip
"""Settings of PEFT's LoraConfig under which the change is more, or other, than s·B·A."""


@dataclass(frozen=True)
class LoraPair:
    """The change of one weight matrix: `up` (out, r) times `down` (r, in) times `scale`."""

    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def change(self) -> NDArray[np.float32]:
        """s·B·A as one matrix, (out, in)."""
        return np.float32(self.scale) * (self.up @ self.down)


@dataclass(frozen=True)
class Lora:
    """`weights` are the base's tensors that it changes, "model.layers.0.mlp.up_proj.weight"."""

    tensors: Tensors
    config: Mapping[str, Any]
    weights: tuple[str, ...]

    def pair(self, weight: str) -> LoraPair:
        """Raises `FtlabError` if the adapter leaves that tensor alone, or the shapes do not fit."""
        module = weight.removesuffix(".weight")
        down = self.tensors.read(f"{_PREFIX}{module}{_DOWN}")
        up = self.tensors.read(f"{_PREFIX}{module}{_UP}")
        if down.ndim != 2 or up.ndim != 2 or not down.size or up.shape[1] != down.shape[0]:
            raise FtlabError(
                f"A {down.shape} and B {up.shape} of '{module}' do not fit together; save the "
                "adapter again."
            )
        return LoraPair(down, up, scale_of(module, down.shape[0], self.config))


def scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """s of the module. Raises `FtlabError` if the configuration's alpha is no number."""
    alpha = _alpha(module, config)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FtlabError(
            f"{CONFIG_FILE} has the lora_alpha {str(alpha)[:40]!r}, which is no number; save the "
            "adapter again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def open_lora(folder: Path) -> Lora:
    """The LoRA in PEFT's own files in the folder.

    Raises `FtlabError` for another kind of adapter, a variant that is more than s·B·A, or files
    that are missing or broken.
    """
    try:
        data = (folder / CONFIG_FILE).read_bytes()
    except OSError as error:
        raise FtlabError(
            f"The adapter has no {CONFIG_FILE} that can be read ({error.strerror}); train it again."
        ) from None
    facts = check_config(data)
    if facts.peft_type != "LORA":
        raise FtlabError(f"This is a {facts.peft_type} adapter; only LoRA is shown here.")
    config = json.loads(data)
    for key in _NOT_PLAIN:
        if config.get(key):
            raise FtlabError(
                f"This LoRA sets {key}, so its change is not s·B·A; choose a plain one."
            )
    tensors = open_tensors(folder / WEIGHTS_FILE)
    weights = tuple(
        name.removeprefix(_PREFIX).removesuffix(_DOWN) + ".weight"
        for name in tensors.names
        if name.startswith(_PREFIX) and name.endswith(_DOWN)
    )
    if not weights:
        raise FtlabError(f"{WEIGHTS_FILE} holds no pair of lora_A and lora_B; save it again.")
    return Lora(tensors, config, weights)


def _alpha(module: str, config: Mapping[str, Any]) -> Any:
    """The first entry of `alpha_pattern` that ends the module's name, as PEFT looks it up.

    PEFT reads keys as regular expressions. One of a stranger's adapter can take Python for ever, so
    here a key is a plain name; raises `FtlabError` for any other.
    """
    pattern = config.get("alpha_pattern")
    for key, value in (pattern if isinstance(pattern, dict) else {}).items():
        if not _NAME.fullmatch(key):
            raise FtlabError(
                f"alpha_pattern in {CONFIG_FILE} has the key {key[:40]!r}, a regular expression; "
                "here only module names such as 'q_proj' are read."
            )
        if module == key or module.endswith(f".{key}"):
            return value
    return config.get("lora_alpha", 8)
