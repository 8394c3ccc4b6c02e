"""Parameters and file sizes of a model that has no weights: exact, from names, shapes and types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from ftlab.methods.peft_rules import CONVERTED_INITS
from ftlab.methods.variant import Variant

_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32",
    torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
"""In safetensors' own order, from the last of which it writes the tensors."""

_ORDER = list(_NAMES)
_ALIGNED_TO = 8


def saved_tensors(model: Any, variant: Variant) -> Mapping[str, Tensor]:
    """What a run would save: the adapter, the weights that learn, or the whole model."""
    if isinstance(model, PeftModel):
        found: Mapping[str, Tensor] = get_peft_model_state_dict(model)
        start = str(getattr(model.active_peft_config, "init_lora_weights", "")).lower()
        return _as_plain_lora(found) if start.startswith(CONVERTED_INITS) else found
    if not variant.spec.ships_whole_model:
        return {name: p for name, p in model.named_parameters() if p.requires_grad}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    held = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    # Under the names of its published files, which have each expert apart.
    as_saved: Mapping[str, Tensor] = revert_weight_conversion(model, held)
    return as_saved


def _as_plain_lora(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Twice the rank: what was learnt beside what it started from, which the base has lost."""
    return {
        name: torch.cat([tensor, tensor], dim=0 if "lora_A" in name else 1)
        for name, tensor in tensors.items()
    }


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file with those tensors, header included.

    The header is JSON after eight bytes of length, filled up with blanks to a multiple of eight
    (github.com/huggingface/safetensors, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda x: (-_ORDER.index(x[1].dtype), x[0])):
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-text // _ALIGNED_TO) * _ALIGNED_TO + end
