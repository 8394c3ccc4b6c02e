"""A PeftConfig's fields against the real class: their names, their kinds, what PEFT itself says."""

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
"""Fields without a default, which PEFT misses only later and without naming them."""


def checked_config(text: str, plan: RunPlan) -> tuple[PeftConfig, str]:
    """PEFT's own object of a canonical configuration, and its text without what is at its default.

    Raises `FtlabError` for a field that the class lacks, a value of the wrong kind, and whatever
    the class itself refuses.
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
    """What PEFT raised, as a sentence of its own."""
    words = " ".join(str(error).split())[:300].rstrip(" .") or type(error).__name__
    return f"PEFT refuses this {peft_type}: {words}."


def _fields(kind: type[Any]) -> dict[str, Any]:
    """The names of the class's fields with their defaults."""
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
    except (NameError, TypeError):  # a name that is imported for type checkers alone
        return {}


def _is_default(value: Any, default: Any) -> bool:
    plain = default.value if isinstance(default, Enum) else default
    try:
        return json.dumps(value, sort_keys=True) == json.dumps(plain, sort_keys=True)
    except TypeError:  # a default that is no JSON
        return False


def _check_kind(peft_type: str, name: str, value: Any, hint: Any) -> None:
    wanted = _wanted(hint)
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except TypeError:  # pydantic has its own settings in the class
        adapter = TypeAdapter(hint)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
        named = [member.value for kind in _enums(hint) for member in kind]
        if isinstance(value, str) and named and value not in named:  # PEFT takes it for the default
            choice = f"one of {', '.join(map(json.dumps, named))}"
            raise FtlabError(f"{peft_type}: {name} is {shown(value)}; it must be {choice}.")
    except (ValidationError, PydanticCustomError):
        if isinstance(value, str) and _begins_like_a_choice(value, hint):
            return
        raise FtlabError(
            f"{peft_type}: {name} is {json.dumps(value)[:60]}; it must be {' or '.join(wanted)}."
        ) from None


def _begins_like_a_choice(value: str, hint: Any) -> bool:
    """PEFT writes "pissa_niter_[number of iters]" for a choice with a number in it."""
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
    """The kinds that a hint allows, in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = {word for part in get_args(hint) for word in _wanted(part)}
        # typing remembers unions in whatever order it met them first
        return sorted(words, key=lambda word: (word == "null", word))
    if origin is Literal:
        return [f"one of {', '.join(json.dumps(choice) for choice in get_args(hint))}"]
    if get_origin(hint) is None and _enums(hint):
        return [f"one of {', '.join(json.dumps(member.value) for member in hint)}"]
    if origin in (list, tuple) or hint in (list, tuple):
        inner = [word for part in get_args(hint) for word in _wanted(part)]
        return [f"a list (of {', '.join(dict.fromkeys(inner))})" if inner else "a list"]
    return [_WORDS.get(hint, "an object")]
