"""What an adapter's `adapter_config.json` may say, checked without PEFT.

The file comes from elsewhere, so nothing in it is taken on trust: it must name a kind of adapter
that answers on its own, and neither code to import nor a base other than the one it names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ftlab.errors import FtlabError
from ftlab.methods.patterns import WAY_OUT, wrong_pattern
from ftlab.methods.peft_rules import (
    CANNOT_ANSWER,
    Refused,
    base_changes,
    foreign_part,
    read_object,
    shown,
    unknown_type,
)
from ftlab.methods.registry import METHODS
from ftlab.models.bundled import bundled_folder
from ftlab.models.reference import BUNDLED_ID
from ftlab.words import plural

MAX_NAME_CHARACTERS = 200

_WAYS_OUT = {
    "init_lora_weights": "save it converted to plain LoRA (save_pretrained with "
    "path_initial_model_for_weight_conversion) and bring that",
    "loftq": "bring a LoRA trained on the published weights",
    "kasa_config": "bring a plain LoRA",
    "layer_replication": "bring one without",
    "bias": "bring an adapter trained with bias='none'",
}

_PATH = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]|\w+://")
_HUB_CACHE = re.compile(r"models--([\w.-]+)[/\\]snapshots\b")
_GENERATING_CLASS = re.compile(r"\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration)")


@dataclass(frozen=True)
class AdapterFacts:
    """What is used of an adapter's configuration.

    `model` is the base's public name, `place` the folder where it lay ("": it was given by name),
    `method` a method of the registry or PEFT's own name in lower case, `rank` LoRA's largest and
    `tokens` a prompt method's count (`None`: has none). `variant` is the method that a LoRA of a
    kind of its own is, "dora" or "rslora".
    """

    peft_type: str
    model: str
    rank: int | None = None
    tokens: int | None = None
    place: str = ""
    variant: str = ""

    @property
    def method(self) -> str:
        """The registry names the methods it shares with PEFT as PEFT does, in lower case."""
        return self.variant or self.peft_type.lower()

    @property
    def kind(self) -> str:
        """What people call it: the method's label, or PEFT's own name for one without."""
        return METHODS[self.method].label if self.method in METHODS else self.peft_type

    @property
    def summary(self) -> str:
        """Short, as in "LoRA r=8"."""
        if self.rank is not None:
            return f"{self.kind} r={self.rank}"
        return self.kind if self.tokens is None else f"{self.kind} {self.tokens} tokens"

    def describe(self, ranks: Sequence[int]) -> str:
        """The summary, with the rank of each layer where they differ: "LoRA rank 8, 2 layers at 4".

        `ranks` has one number a layer that is adapted. The rank that most layers have comes first.
        """
        counted = Counter(ranks).most_common()
        if self.rank is None or len(counted) < 2:
            return self.summary
        (most, _), *others = counted
        shown = [f"{plural(number, 'layer')} at {rank}" for rank, number in others[:3]]
        more = sum(number for _, number in others[3:])
        shown += [f"{plural(more, 'layer')} at others"] if more else []
        return f"{self.kind} rank {most}, {', '.join(shown)}"


def check_config(data: bytes) -> AdapterFacts:
    """Raises `FtlabError` with the first reason why the adapter cannot be worn."""
    config = _object(data)
    peft_type = _peft_type(config)
    _check_task(config)
    _check_code(config)
    _check_base_untouched(config)
    wrong = wrong_pattern(config)
    if wrong:
        _refuse(wrong, WAY_OUT)
    model = _base_model(config)
    return AdapterFacts(
        peft_type=peft_type,
        model=model,
        place=_place(config, model),
        variant=_variant(config) if peft_type == "LORA" else "",
        rank=_rank(config) if peft_type == "LORA" else None,
        tokens=_tokens(config) if peft_type in ("PROMPT_TUNING", "P_TUNING") else None,
    )


def public_name(model: str) -> str:
    """The name of a base model without the way to it: a path is reduced to its last part.

    Hub ids stay as they are, a folder of the Hub's cache becomes the id it was fetched as, and the
    folder in which ftlab keeps the bundled model becomes that model's id.
    """
    cached = _HUB_CACHE.search(model)
    if cached:
        return cached[1].replace("--", "/", 1)
    parts = [part for part in re.split(r"[/\\]", model) if part.strip(" .~")]
    if parts and parts[-1] == bundled_folder().name:
        return BUNDLED_ID
    if _PATH.match(model) or len(parts) > 2:
        return parts[-1] if parts else ""
    return "/".join(parts)


def _object(data: bytes) -> dict[str, Any]:
    try:
        return read_object(data)
    except Refused as error:
        _refuse(error.what, "save the adapter again")


def _peft_type(config: Mapping[str, Any]) -> str:
    peft_type = config.get("peft_type")
    unknown = unknown_type(peft_type)
    if unknown:
        _refuse(unknown, "save the adapter again with that version")
    assert isinstance(peft_type, str)
    if peft_type in CANNOT_ANSWER:
        raise FtlabError(
            f"A {peft_type} adapter cannot answer in a pane of its own: "
            f"{CANNOT_ANSWER[peft_type]}; bring another kind, such as LORA."
        )
    return peft_type


def _check_task(config: Mapping[str, Any]) -> None:
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        _refuse(
            f"has the task_type {shown(task)}, and only CAUSAL_LM writes text",
            "bring an adapter of a language model",
        )
    mapping = config.get("auto_mapping")
    if not mapping:
        return
    # PEFT notes the base's class where no task type was set; any other library would be imported.
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if not isinstance(library, str) or not re.fullmatch(r"transformers(\.\w+)*", library):
        _refuse(
            f"asks in auto_mapping to import {shown(library)}, and code of an adapter's own is "
            "never run",
            "remove auto_mapping and set task_type to CAUSAL_LM",
        )
    if not isinstance(name, str) or not _GENERATING_CLASS.fullmatch(name):
        _refuse(
            f"was made for {shown(name)} (auto_mapping), which writes no text",
            "bring an adapter of a language model",
        )


def _check_code(config: Mapping[str, Any]) -> None:
    foreign = foreign_part(config)
    if foreign:
        _refuse(foreign, "bring an adapter that PEFT knows by itself and that stands alone")


def _check_base_untouched(config: Mapping[str, Any]) -> None:
    """All panes share one base, so what changes the base itself cannot be one of them."""
    for field, what in base_changes(config):
        loftq = str(config.get(field)).lower().startswith("loftq")
        _refuse(what, _WAYS_OUT["loftq" if loftq else field])


def _base_model(config: Mapping[str, Any]) -> str:
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        _refuse(
            "does not say which model it was trained on",
            "write the model's id into base_model_name_or_path",
        )
    model = public_name(named.strip())
    if not model or len(model) > MAX_NAME_CHARACTERS or not model.isprintable():
        _refuse(
            f"names no model in base_model_name_or_path ({shown(model)})",
            "write the model's id there",
        )
    return model


def _place(config: Mapping[str, Any], model: str) -> str:
    """The folder that is named as the base, where the public name is no more than its last part."""
    named = str(config.get("base_model_name_or_path")).strip()
    is_cached = model == BUNDLED_ID or _HUB_CACHE.search(named)
    return "" if is_cached or named.rstrip("/") == model else named


def _variant(config: Mapping[str, Any]) -> str:
    """The id of the method whose own feature of a LoRA is switched on; "" for plain LoRA."""
    features = {
        method.peft_traits.feature: method.id
        for method in METHODS.values()
        if method.peft_traits is not None and method.quantises is None
    }
    return next((features[name] for name in sorted(features) if name and config.get(name)), "")


def _rank(config: Mapping[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        _refuse("has a rank_pattern that is no object", "save the adapter again")
    ranks = [
        _whole(config.get("r", 8), "r"),
        *(_whole(r, "rank_pattern") for r in pattern.values()),
    ]
    return max(ranks)


def _tokens(config: Mapping[str, Any]) -> int:
    return _whole(config.get("num_virtual_tokens"), "num_virtual_tokens")


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(f"has {key}={shown(value)}, which is no whole number above 0", "save it again")
    return value


def _refuse(what: str, way_out: str) -> NoReturn:
    raise FtlabError(f"adapter_config.json {what}; {way_out}.") from None
