"""The registry of methods: every file of `ftlab.methods.families`, and every module named by an
entry point of the group `ftlab.methods`, defines `METHODS`.
"""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.words import did_you_mean
from ftlab.methods import families
from ftlab.methods.by_hand import PEFT
from ftlab.methods.rates import BY_WIDTH
from ftlab.methods.spec import FAMILIES, BasePrecision, Look, LoopHooks, MethodSpec

CORE = ("full", "lora", "qlora", "prompt_tuning")
"""The default selection: full fine-tuning, LoRA, LoRA on a 4-bit base, and prompt tuning."""

BASE_METHOD = "base"
"""Method id in the record of a base run: the original model, evaluated once per sweep."""

ENTRY_POINTS = "ftlab.methods"
"""The entry point group with which other packages add methods."""


def _sources() -> Iterator[tuple[str, tuple[MethodSpec, ...]]]:
    """(name, methods) of each module that defines methods."""
    for found in pkgutil.iter_modules(families.__path__):
        module = import_module(f"{families.__name__}.{found.name}")
        yield module.__name__, module.METHODS
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            methods = entry.load().METHODS
        except Exception as error:
            _leave_out(f"the module '{entry.value}' cannot be imported ({one_line(error)})")
            continue
        yield entry.value, methods


def find_methods() -> dict[str, MethodSpec]:
    """All methods by id, ordered by family, file, and place in the file.

    Warns of plugins that cannot be imported and methods with a duplicate id or an unknown family.
    """
    found: dict[str, MethodSpec] = {}
    order = list(FAMILIES)
    for name, methods in _sources():
        for method in methods:
            if method.id in (*found, PEFT.id, BASE_METHOD):
                _leave_out(f"'{method.id}' of {name} is the id of another method")
            elif method.family not in order:
                _leave_out(f"'{method.id}' of {name} is of no family: {', '.join(order)}")
            else:
                found[method.id] = method
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].family)))


def _leave_out(why: str) -> None:
    warnings.warn(f"Some methods are left out: {why}.", stacklevel=2)


METHODS = find_methods()
"""All methods by id, in the order of `find_methods`."""

_BY_ID = METHODS | {PEFT.id: PEFT}

BASE_LOOK = Look(colour="#8a94a3", marker="x", dash="dot")


def get_method(method_id: str) -> MethodSpec:
    """The method with that id; raises `FtlabError` with the known ones if there is none."""
    if method_id in _BY_ID:
        return _BY_ID[method_id]
    hint = did_you_mean(method_id, METHODS)
    raise FtlabError(f"There is no method '{method_id[:80]}'; methods: {', '.join(METHODS)}.{hint}")


def label_of(method_id: str) -> str:
    """A method's label, also for a base run; the id itself if the method is unknown."""
    if method_id == BASE_METHOD:
        return "Base"
    return _BY_ID[method_id].label if method_id in _BY_ID else method_id


def look_of(method_id: str) -> Look:
    """The colour, marker and dash of a method, the same in all figures and tables."""
    return _BY_ID[method_id].look if method_id in _BY_ID else BASE_LOOK


def rates_kept() -> list[str]:
    """Labels of the methods whose learning rate does not depend on the size of the model."""
    return [method.label for method in METHODS.values() if method.rate_rule is not BY_WIDTH]


def on_base(method_id: str, precision: BasePrecision) -> str:
    """The id of the method that equals `method_id` on a base quantised so; "" if there is none."""
    found = (
        method.id
        for method in METHODS.values()
        if (method.quantises, method.base_precision) == (method_id, precision)
    )
    return next(found, "")


def hooks_of(peft_type: str) -> LoopHooks | None:
    """The training loop hooks of adapters with that PEFT type; `None` if there are none."""
    found = (
        method.hooks
        for method in METHODS.values()
        if method.peft_traits is not None and method.peft_traits.type == peft_type
    )
    return next(found, None)


def named_by(peft_type: str, feature: str = "", start: str = "", optimizer: str = "") -> str:
    """The id of the method whose `PeftTraits` match a PEFT configuration, apart from the base's
    precision (see `on_base`); "" if there is none."""
    for method in METHODS.values():
        traits = method.peft_traits
        if traits is None or method.quantises is not None or traits.type != peft_type:
            continue
        same_start = start.startswith(traits.start) if traits.start else not start
        same_optimizer = optimizer in (traits.optimizers or ("",))
        if traits.feature == feature and same_start and same_optimizer:
            return method.id
    return ""
