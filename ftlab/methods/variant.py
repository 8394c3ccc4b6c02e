"""A variant: a method with its hyperparameters, so that one sweep can hold LoRA at two ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import ClassVar

from ftlab.errors import FieldError, FtlabError
from ftlab.methods.registry import get_method
from ftlab.methods.spec import Hyperparameter, MethodSpec, Value

LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class Variant:
    """`hyperparameters` holds only what differs from the method's defaults.

    `learning_rate` `None` means the sweep's, and where that is `None` too, the method's own.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    method: str
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    learning_rate: float | None = None

    @property
    def spec(self) -> MethodSpec:
        return get_method(self.method)

    @property
    def label(self) -> str:
        """ "LoRA", or "LoRA r=4" where a hyperparameter differs from its default."""
        parts = [f"{name}={value}" for name, value in sorted(self.hyperparameters.items())]
        if self.learning_rate is not None:
            parts.append(f"lr={self.learning_rate:g}")
        return " ".join([self.spec.label, *parts])

    def values(self) -> dict[str, Value]:
        """All hyperparameters: the defaults with this variant's own laid over them."""
        return self.spec.defaults() | dict(self.hyperparameters)


def parse_variant(text: str) -> Variant:
    """Reads `lora`, `lora:r=4` or `lora:r=4,alpha=8,learning_rate=1e-3`.

    Raises `FtlabError` for an unknown method or hyperparameter or a value of the wrong kind.
    """
    method_id, _, settings = text.strip().partition(":")
    variant = Variant(method=get_method(method_id.strip()).id)
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        name, equals, value = setting.partition("=")
        if not equals:
            raise FtlabError(f"'{setting}' in variant '{text}' is not of the form name=value.")
        variant = with_setting(variant, name.strip(), value.strip())
    return variant


def apply_settings(variants: Sequence[Variant], settings: Sequence[str]) -> list[Variant]:
    """Lays `lora.r=16` over every variant of that method that does not set it itself."""
    result = list(variants)
    for setting in settings:
        path, equals, value = setting.partition("=")
        method_id, dot, name = path.strip().partition(".")
        if not equals or not dot:
            raise FtlabError(f"'{setting}' is not of the form method.name=value, as in lora.r=16.")
        method = get_method(method_id)
        if all(variant.method != method.id for variant in result):
            raise FtlabError(
                f"'{setting}' sets a hyperparameter of {method.id}, which is not in this sweep."
            )
        for i, variant in enumerate(result):
            own = name in variant.hyperparameters or (
                name == LEARNING_RATE and variant.learning_rate is not None
            )
            if variant.method == method.id and not own:
                result[i] = with_setting(variant, name, value.strip())
    return result


def with_setting(variant: Variant, name: str, text: Value) -> Variant:
    """The variant with one hyperparameter set; a value equal to the default leaves no trace."""
    if name == LEARNING_RATE:
        return replace(variant, learning_rate=_number(variant.method, name, text, float))
    parameter = _known(variant.spec, name)
    value = _convert(variant.method, parameter, text)
    others = {k: v for k, v in variant.hyperparameters.items() if k != name}
    own = {} if value == parameter.default else {name: value}
    return replace(variant, hyperparameters=others | own)


def validate_variant(variant: Variant) -> list[FieldError]:
    """Every wrong value of the variant, named as `lora.r`."""
    try:
        spec = variant.spec
    except FtlabError as error:
        return [FieldError("variants", str(error))]
    errors = []
    for name, value in variant.hyperparameters.items():
        try:
            message = _out_of_range(spec, _known(spec, name), value)
        except FtlabError as error:
            message = str(error)
        if message:
            errors.append(FieldError(f"{spec.id}.{name}", message))
    rate = variant.learning_rate
    if rate is not None and not (math.isfinite(rate) and 0 < rate <= 10):
        errors.append(
            FieldError(
                f"{spec.id}.{LEARNING_RATE}",
                f"{spec.label}: learning rate {rate:g} must be above 0 and at most 10; "
                f"its default is {spec.learning_rate:g}.",
            )
        )
    return errors


def _known(spec: MethodSpec, name: str) -> Hyperparameter:
    parameter = spec.hyperparameter(name)
    if parameter is not None:
        return parameter
    names = [*spec.defaults(), LEARNING_RATE]
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise FtlabError(
        f"{spec.label} has no hyperparameter '{name}'; it has: {', '.join(names)}.{hint}"
    )


def _convert(method: str, parameter: Hyperparameter, text: Value) -> Value:
    if parameter.kind == "int":
        return int(_number(method, parameter.name, text, int))
    if parameter.kind == "float":
        return _number(method, parameter.name, text, float)
    return str(text)


def _number(method: str, name: str, text: Value, kind: type) -> float:
    word = "a whole number" if kind is int else "a number"
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise FtlabError(f"{method}.{name} is '{text}', which is not {word}.") from None
    if not math.isfinite(value) or (kind is int and value != int(value)):
        raise FtlabError(f"{method}.{name} is '{text}', which is not {word}.")
    return value


def _out_of_range(spec: MethodSpec, parameter: Hyperparameter, value: Value) -> str | None:
    where = f"{spec.label}: {parameter.label} is {value}"
    if parameter.kind == "choice":
        if value in parameter.choices:
            return None
        return f"{where}, which is none of: {', '.join(parameter.choices)}."
    if isinstance(value, str | bool):
        return f"{where}, which is not a number."
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{where}; it must lie between {low:g} and {high:g} (default {parameter.default})."
    return None
