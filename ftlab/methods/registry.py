"""The methods that can be compared."""

from __future__ import annotations

from ftlab.errors import FtlabError
from ftlab.methods.by_hand import PEFT
from ftlab.methods.full import BITFIT, FULL, LAST_LAYERS, LAYER_NORM
from ftlab.methods.lora import (
    ADALORA,
    DORA,
    LORA,
    LORA_FA,
    LORA_INT8,
    LORA_PLUS,
    PISSA,
    QDORA,
    QLORA,
    RSLORA,
)
from ftlab.methods.orthogonal import BOFT, HRA, OFT
from ftlab.methods.prompts import P_TUNING, PREFIX_TUNING, PROMPT_TUNING, PROMPT_TUNING_TEXT
from ftlab.methods.spec import FAMILIES, Look, MethodSpec
from ftlab.methods.structured import FOURIERFT, IA3, LOHA, LOKR, MISS, RANDLORA, SHIRA, VERA
from ftlab.words import did_you_mean

CORE = ("full", "lora", "qlora", "prompt_tuning")
"""What is compared unless somebody chooses: the whole, the overlay, the overlay on 4 bits, and the
prompt."""

_ALL = (
    FULL, LORA, QLORA, PROMPT_TUNING,
    LAST_LAYERS, LAYER_NORM, BITFIT,
    RSLORA, DORA, PISSA, LORA_PLUS, LORA_FA, ADALORA,
    LORA_INT8, QDORA,
    VERA, RANDLORA, LOHA, LOKR, MISS, FOURIERFT, SHIRA,
    OFT, BOFT, HRA,
    IA3,
    PROMPT_TUNING_TEXT, P_TUNING, PREFIX_TUNING,
)  # fmt: skip

_ORDER = list(FAMILIES)
METHODS: dict[str, MethodSpec] = {
    method.id: method for method in sorted(_ALL, key=lambda method: _ORDER.index(method.family))
}
"""By id, family by family; in a family those of `CORE` first."""

_BY_ID = METHODS | {PEFT.id: PEFT}

BASE_METHOD = "base"
"""Method id in the record of a base run: the untouched model, measured once a sweep."""

BASE_LOOK = Look(colour="#8a94a3", marker="x", dash="dot")


def get_method(method_id: str) -> MethodSpec:
    """The method of that id; raises `FtlabError` that names the known ones."""
    if method_id in _BY_ID:
        return _BY_ID[method_id]
    hint = did_you_mean(method_id, METHODS)
    raise FtlabError(f"There is no method '{method_id[:80]}'; methods: {', '.join(METHODS)}.{hint}")


def label_of(method_id: str) -> str:
    """A method's label for people, also for a base run and for a method no longer known."""
    if method_id == BASE_METHOD:
        return "Base"
    return _BY_ID[method_id].label if method_id in _BY_ID else method_id


def look_of(method_id: str) -> Look:
    """The one colour, marker and dash of a method, the same in every figure and table."""
    return _BY_ID[method_id].look if method_id in _BY_ID else BASE_LOOK
