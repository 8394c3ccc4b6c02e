"""Checks a PeftConfig against PEFT's class: field names, value types, and PEFT's own checks."""

from __future__ import annotations

import dataclasses
import json
import types
import warnings
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import PeftConfig, __version__
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticCustomError, ValidationError

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import did_you_mean, join_names
from ftlab.methods.by_hand import CONFIG, build_config, canonical_text
from ftlab.methods.peft_rules import shown
from ftlab.methods.spec import RunPlan

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}
_NEEDED = ("num_virtual_tokens", "adapter_len", "adapter_layers")
"""Fields without a default; PEFT fails on a missing one only later, and does not name it."""


def checked_config(text: str, plan: RunPlan) -> tuple[PeftConfig, str]:
    """Returns PEFT's object for a canonical configuration, and its text without default values.

    Raises `FtlabError` for an unknown field, a value of the wrong type, and anything that the class
    itself refuses.
    """
    given: dict[str, Any] = json.loads(text)
    peft_type = given["peft_type"]
    fields = _fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])
    hints = _hints(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])
    for name, value in given.items():
        if name not in fields:
            near = did_you_mean(name, fields) or f" It has {join_names(sorted(fields))}."
            raise FtlabError(f"{peft_type} has no field {shown(name)} in PEFT {__version__}.{near}")
        if name in hints and not _is_default(value, fields[name]):
            _check_kind(peft_type, name, value, hints[name])
    for name in _NEEDED:
        if name in fields and given.get(name) is None:
            raise FtlabError(f"{peft_type} needs {name}, a whole number; add it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = build_config({CONFIG: text}, plan)
    except Exception as error:
        raise FtlabError(said_by_peft(peft_type, error)) from error
    kept = {
        name: value
        for name, value in given.items()
        if name == "peft_type" or not _is_default(value, fields[name])
    }
    return config, canonical_text(kept)


def said_by_peft(peft_type: str, error: Exception) -> str:
    """Returns PEFT's error as a sentence."""
    words = " ".join(str(error).split())[:300].rstrip(" .") or type(error).__name__
    return f"PEFT refuses this {peft_type}: {words}."


def _fields(kind: type[Any]) -> dict[str, Any]:
    """Returns the class's field names with their defaults."""
    return {
        field.name: field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(kind)
        if field.init
    }


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):  # a name that is imported only for type checkers
        return {}


def _is_default(value: Any, default: Any) -> bool:
    plain = default.value if isinstance(default, Enum) else default
    try:
        return json.dumps(value, sort_keys=True) == json.dumps(plain, sort_keys=True)
    except TypeError:  # a default that is not JSON
        return False


def _check_kind(peft_type: str, name: str, value: Any, hint: Any) -> None:
    wanted = _wanted(hint)
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except TypeError:  # the class has its own pydantic config
        adapter = TypeAdapter(hint)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
        named = [member.value for kind in _enums(hint) for member in kind]
        if isinstance(value, str) and named and value not in named:  # PEFT uses the default then
            choice = f"one of {', '.join(map(json.dumps, named))}"
            raise FtlabError(f"{peft_type}: {name} is {shown(value)}; it must be {choice}.")
    except (ValidationError, PydanticCustomError):
        if isinstance(value, str) and _begins_like_a_choice(value, hint):
            return
        raise FtlabError(
            f"{peft_type}: {name} is {json.dumps(value)[:60]}; it must be {' or '.join(wanted)}."
        ) from None


def _begins_like_a_choice(value: str, hint: Any) -> bool:
    """Matches choices such as "pissa_niter_[number of iters]", which contain a number."""
    return any(
        isinstance(choice, str) and "[" in choice and value.startswith(choice.partition("[")[0])
        for choice in _choices(hint)
    )


def _enums(hint: Any) -> list[type[Enum]]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [hint]
    return [kind for part in get_args(hint) for kind in _enums(part)]


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in _choices(part)]


def _wanted(hint: Any) -> list[str]:
    """Returns the types that a hint allows, in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = {word for part in get_args(hint) for word in _wanted(part)}
        # typing caches unions in the order of their first use
        return sorted(words, key=lambda word: (word == "null", word))
    if origin is Literal:
        return [f"one of {', '.join(json.dumps(choice) for choice in get_args(hint))}"]
    if get_origin(hint) is None and _enums(hint):
        return [f"one of {', '.join(json.dumps(member.value) for member in hint)}"]
    if origin in (list, tuple) or hint in (list, tuple):
        inner = [word for part in get_args(hint) for word in _wanted(part)]
        return [f"a list (of {', '.join(dict.fromkeys(inner))})" if inner else "a list"]
    return [_WORDS.get(hint, "an object")]
