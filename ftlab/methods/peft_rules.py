"""What a PeftConfig in JSON may say, judged without PEFT: of an adapter that somebody brings along,
and of one that somebody describes to have it trained.

Neither is taken on trust: no code to import, no second model to load, no number that is none.
Each judgement gives the middle of a sentence; whoever asks knows whose text it is and the way out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ftlab.json_size import is_deeper

PEFT_TYPES = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "LORA", "ADALORA",
    "ADAMSS", "BOFT", "ADAPTION_PROMPT", "IA3", "BEFT", "LILY", "LOHA", "LOKR", "OFT", "POLY",
    "LN_TUNING", "VERA", "FROD", "PVERA", "FOURIERFT", "GLORA", "XLORA", "HRA", "VBLORA", "UNILORA",
    "CPT", "MISS", "RANDLORA", "ROAD", "TRAINABLE_TOKENS", "HIRA", "SHIRA", "C3A", "WAVEFT", "OSF",
    "DELORA", "GRALORA", "CARTRIDGE", "TINYLORA", "PSOFT", "PEANUT", "SHADOW", "SUPERTUNING",
    "DEFT",
)  # fmt: skip
"""Every kind of adapter of PEFT 0.21, as `peft.utils.peft_types.PeftType` names them."""

_WANTS_TASK = "it wants the number of a task with every prompt"
CANNOT_ANSWER = {
    "XLORA": "it mixes other LoRA adapters, which are not in its file",
    "MULTITASK_PROMPT_TUNING": _WANTS_TASK,
    "POLY": _WANTS_TASK,
}
"""Kinds that give no answer of their own, and why."""

BASE_CHANGING_INITS = ("pissa", "corda", "olora", "lora_ga", "loftq")
"""What `init_lora_weights` begins with where the base's weights are overwritten as well
(`update_layer` in peft/tuners/lora/layer.py). The others (gaussian, eva, orthogonal, mica) set the
adapter alone."""

CONVERTED_INITS = tuple(start for start in BASE_CHANGING_INITS if start != "loftq")
"""Those whose adapter PEFT can save as plain LoRA on the base as it was."""

MAX_DEPTH = 32


class Refused(Exception):
    """`what` is wrong with a text, as the middle of a sentence: "is not valid JSON in UTF-8"."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, read as `read_json` does; raises `Refused` for anything else."""
    config = read_json(data)
    if not isinstance(config, dict):
        raise Refused("holds no JSON object")
    return config


def read_json(data: bytes) -> Any:
    """What the JSON in `data` says; raises `Refused` for what is none, or goes too far.

    No key stands twice in an object, no number is infinite or none, and it nests `MAX_DEPTH`
    levels at most.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_each_once
        )
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError:  # also UnicodeDecodeError, JSONDecodeError
        raise Refused("is not valid JSON in UTF-8") from None
    if is_deeper(value, MAX_DEPTH):
        raise Refused(f"is nested more than {MAX_DEPTH} levels deep")
    if any(isinstance(v, float) and not math.isfinite(v) for _, v in leaves({"": value})):
        raise Refused("holds a number beyond all bounds")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refused(f"names {shown(key)} twice")
        found[key] = value
    return found


def leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of an inner object and every value that is neither object nor list, each with the
    outermost key that it stands under."""
    for key, value in config.items():
        open_values = [value]
        while open_values:
            item = open_values.pop()
            if isinstance(item, dict):
                yield from ((key, inner) for inner in item)
                open_values.extend(item.values())
            elif isinstance(item, list):
                open_values.extend(item)
            else:
                yield key, item


def _inner(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, those of inner objects too."""
    open_values: list[Any] = [config]
    while open_values:
        item = open_values.pop()
        if isinstance(item, Mapping):
            yield from item.items()
            open_values.extend(item.values())
        elif isinstance(item, list):
            open_values.extend(item)


def unknown_type(peft_type: Any) -> str:
    """Why PEFT does not know this kind; "" where it does."""
    if isinstance(peft_type, str) and peft_type in PEFT_TYPES:
        return ""
    return f"has the peft_type {shown(peft_type)}, which PEFT 0.21 does not know"


def foreign_part(config: Mapping[str, Any]) -> str:
    """The code, or the other model, that the configuration asks for; "" if it does not."""
    for key, value in config.items():
        hook = key in ("auto_map", "megatron_config") or key.startswith("custom")
        if hook and value:
            return f"asks for code of its own ({shown(key)}), which is never run"
    if any(key == "trust_remote_code" and value for key, value in _inner(config)):
        return "asks for code of the Hub (trust_remote_code), which is never run"
    for key, value in config.items():
        if key.endswith("_kwargs") and value:
            return f"says how to load other files ({shown(key)}), and none are loaded"
    if config.get("arrow_config"):
        return "routes between other adapters (arrow_config)"
    if config.get("shadow_model") not in (None, "mirror"):
        return "names a second model to load (shadow_model)"
    return ""


def base_changes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields by which the base's own weights would become others, each with what it does."""
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(BASE_CHANGING_INITS):
        yield (
            "init_lora_weights",
            f"says init_lora_weights={start[:40]!r}: the adapter is relative to changed base "
            "weights",
        )
    if config.get("kasa_config"):
        yield "kasa_config", "uses KaSA, which cuts the base's own weights"
    if config.get("layer_replication"):
        yield "layer_replication", "repeats layers of the base (layer_replication)"
    if config.get("bias") not in (None, "none"):
        yield "bias", f"replaces biases of the base (bias={shown(config['bias'])})"


def shown(value: Any) -> str:
    """A value of the text for a sentence: short, and with nothing that a terminal obeys."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
