"""The methods that can be compared."""

from __future__ import annotations

from difflib import get_close_matches

from ftlab.errors import FtlabError
from ftlab.methods.full import FULL
from ftlab.methods.lora import LORA, QLORA
from ftlab.methods.prompt_tuning import PROMPT_TUNING
from ftlab.methods.spec import Look, MethodSpec

METHODS: dict[str, MethodSpec] = {
    method.id: method for method in (FULL, LORA, QLORA, PROMPT_TUNING)
}

BASE_METHOD = "base"
"""Method id in the record of a base run: the untouched model, measured once a sweep."""

BASE_LOOK = Look(colour="#8a94a3", marker="x", dash="dot")


def get_method(method_id: str) -> MethodSpec:
    """The method of that id; raises `FtlabError` that names the known ones."""
    if method_id in METHODS:
        return METHODS[method_id]
    near = get_close_matches(method_id, METHODS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise FtlabError(f"There is no method '{method_id}'; methods: {', '.join(METHODS)}.{hint}")


def label_of(method_id: str) -> str:
    """A method's label for people, also for a base run and for a method no longer known."""
    if method_id == BASE_METHOD:
        return "Base"
    return METHODS[method_id].label if method_id in METHODS else method_id


def look_of(method_id: str) -> Look:
    """The one colour, marker and dash of a method, the same in every figure and table."""
    return METHODS[method_id].look if method_id in METHODS else BASE_LOOK
