"""A variant: a method with its hyperparameters. One sweep can contain LoRA at two ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.basics.words import did_you_mean
from ftlab.methods.by_hand import CONFIG, MAX_CHARACTERS, PEFT, canonical_text
from ftlab.methods.dimensions import ModelShape
from ftlab.methods.peft_rules import Refused, read_json
from ftlab.methods.registry import get_method
from ftlab.methods.spec import BasePrecision, Hyperparameter, MethodSpec, Value
from ftlab.methods.targets import trained_parameters
from ftlab.settings.training import HIGHEST_RATE

LEARNING_RATE = "learning_rate"
BASE = "base"
"""Names of the two settings that every adapter has in addition to its hyperparameters."""

BASES: tuple[BasePrecision, ...] = get_args(BasePrecision)


@dataclass(frozen=True)
class Variant:
    """A method with its settings; `hyperparameters` contains only non-default values.

    If `learning_rate` is `None`, the sweep's is used; if that is `None` too, the method's default
    for the model (`MethodSpec.rate_for`). `base` is the precision of the frozen base if the method
    does not define one (`None`: set by the dtype policy).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    method: str
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    learning_rate: float | None = None
    base: BasePrecision | None = None

    @property
    def spec(self) -> MethodSpec:
        return get_method(self.method)

    @property
    def base_precision(self) -> BasePrecision | None:
        """The precision of the frozen base, set by this variant or by its method."""
        return self.base or self.spec.base_precision

    @property
    def label(self) -> str:
        """ "LoRA", "LoRA r=4" with a non-default hyperparameter, "OFT on nf4"."""
        spec = self.spec
        parts = [spec.label if spec.names is None else spec.names(self.values())]
        if spec.names is None:
            parts += [f"{name}={value}" for name, value in sorted(self.hyperparameters.items())]
        if self.base is not None:
            parts.append(f"on {self.base}")
        if self.learning_rate is not None:
            parts.append(f"lr={self.learning_rate:g}")
        return " ".join(parts)

    def values(self) -> dict[str, Value]:
        """All hyperparameters: the defaults, updated with this variant's values."""
        return self.spec.defaults() | dict(self.hyperparameters)


def trainable_parameters(variant: Variant, shape: ModelShape) -> int | None:
    """The number of trained parameters, as `trained_parameters`."""
    return trained_parameters(variant.spec, shape, variant.values())


def parse_variant(text: str) -> Variant:
    """Parses `lora`, `lora:r=4` or `oft:block=16,base=nf4,learning_rate=1e-3`.

    A value that contains a comma must be JSON: a quoted string or an object. Raises `FtlabError`
    for an unknown method or hyperparameter, or a value of the wrong type.
    """
    method_id, _, settings = text.strip().partition(":")
    return with_settings(Variant(method=get_method(method_id.strip()).id), settings)


def format_variant(variant: Variant) -> str:
    """The variant in the syntax of `parse_variant`, on one line."""
    parts = [f"{name}={_quoted(value)}" for name, value in variant.hyperparameters.items()]
    if variant.base is not None:
        parts.append(f"{BASE}={variant.base}")
    if variant.learning_rate is not None:
        parts.append(f"{LEARNING_RATE}={variant.learning_rate!r}")
    return variant.method + (f":{','.join(parts)}" if parts else "")


def with_settings(variant: Variant, text: str) -> Variant:
    """The variant with settings in the syntax of `parse_variant` (the part after the colon)."""
    for name, value in _split(text):
        variant = with_setting(variant, name, value)
    return variant


def _quoted(value: Value) -> str:
    text = str(value)
    plain = text and text == text.strip() and text.isprintable() and not set(text) & set(',"')
    return text if plain or text.startswith("{") else json.dumps(text)


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Splits `r=4,text="a, b"` into (name, value) pairs."""
    rest = text.strip().lstrip(", ")
    while rest:
        name, equals, after = rest.partition("=")
        if not equals or "," in name:
            wrong = rest.partition(",")[0].strip()
            raise FtlabError(f"'{wrong[:80]}' is not of the form name=value.")
        after = after.lstrip()
        if after[:1] in ('"', "{"):
            value, rest = _json_value(name.strip(), after)
        else:
            value, _, rest = after.partition(",")
        yield name.strip(), value.strip()
        rest = rest.lstrip(", ")


def _json_value(name: str, text: str) -> tuple[str, str]:
    """The JSON string or object at the start of `text`, and the rest after it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        raise FtlabError(f"{name}={text[:60]} is not valid JSON; close its quotes.") from None
    rest = text[end:].lstrip()
    if rest and not rest.startswith(","):
        raise FtlabError(f"'{rest[:40]}' after the value of {name} is not of the form name=value.")
    return (value if isinstance(value, str) else text[:end]), rest


def apply_settings(variants: Sequence[Variant], settings: Sequence[str]) -> list[Variant]:
    """Applies `lora.r=16` to every variant of that method that does not set the value itself."""
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
            own = (
                name in variant.hyperparameters
                or (name == LEARNING_RATE and variant.learning_rate is not None)
                or (name == BASE and variant.base is not None)
            )
            if variant.method == method.id and not own:
                result[i] = with_setting(variant, name, value.strip())
    return result


def with_setting(variant: Variant, name: str, text: Value) -> Variant:
    """The variant with one hyperparameter set; a value equal to the default is not stored."""
    if name == LEARNING_RATE:
        return replace(variant, learning_rate=_number(variant.method, name, text, float))
    if name == BASE and variant.spec.is_adapter:
        return replace(variant, base=_base(variant.spec, str(text)))
    parameter = _known(variant.spec, name)
    value = _convert(variant.method, parameter, text)
    others = {k: v for k, v in variant.hyperparameters.items() if k != name}
    own = {} if value == parameter.default else {name: value}
    return replace(variant, hyperparameters=others | own)


def validate_variant(variant: Variant) -> list[FieldError]:
    """An error for each invalid value of the variant, with a field name such as `lora.r`."""
    try:
        spec = variant.spec
    except FtlabError as error:
        return [FieldError("variants", str(error))]
    errors = []
    must_be_given = {p.name: p.default for p in spec.hyperparameters if p.read}
    for name, value in (must_be_given | dict(variant.hyperparameters)).items():
        try:
            message = _out_of_range(spec, _known(spec, name), value)
        except FtlabError as error:
            message = str(error)
        if message:
            errors.append(FieldError(f"{spec.id}.{name}", message))
    wrong_base = _wrong_base(variant)
    if wrong_base:
        errors.append(FieldError(f"{spec.id}.{BASE}", wrong_base))
    rate = variant.learning_rate
    if rate is not None and not (math.isfinite(rate) and 0 < rate <= HIGHEST_RATE):
        errors.append(
            FieldError(
                f"{spec.id}.{LEARNING_RATE}",
                f"{spec.label}: learning rate {rate:g} must be above 0 and at most "
                f"{HIGHEST_RATE:g}; its default on the bundled model is {spec.learning_rate:g}.",
            )
        )
    return errors


def _known(spec: MethodSpec, name: str) -> Hyperparameter:
    parameter = spec.hyperparameter(name)
    if parameter is not None:
        return parameter
    names = [*spec.defaults(), LEARNING_RATE, *([BASE] if spec.is_adapter else [])]
    raise FtlabError(
        f"{spec.label} has no hyperparameter '{name[:80]}'; it has: {', '.join(names)}."
        f"{did_you_mean(name, names)}"
    )


def _base(spec: MethodSpec, text: str) -> BasePrecision | None:
    """The named precision; `None` if it is the method's own already."""
    if text not in BASES:
        raise FtlabError(
            f"{spec.id}.{BASE} is '{text[:80]}', which is none of: {', '.join(BASES)}."
        )
    return None if text == spec.base_precision else text


def _wrong_base(variant: Variant) -> str | None:
    base, spec = variant.base, variant.spec
    if base is None:
        return None
    if base not in BASES:
        return f"{spec.label}: base is '{str(base)[:80]}', which is none of: {', '.join(BASES)}."
    if not spec.is_adapter:
        return (
            f"{spec.label} trains weights of the base itself, which cannot be held in {base}; "
            "leave base out."
        )
    if spec.base_precision not in (None, base):
        return (
            f"{spec.label} has its base in {spec.base_precision} by definition, not in {base}; "
            "leave base out, or choose the method without it."
        )
    return None


def _convert(method: str, parameter: Hyperparameter, text: Value) -> Value:
    if parameter.read is not None:
        return parameter.read(str(text))
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
        value = math.nan
    if not math.isfinite(value) or (kind is int and value != int(value)):
        raise FtlabError(f"{method}.{name} is '{text}', which is not {word}.")
    return value


def _out_of_range(spec: MethodSpec, parameter: Hyperparameter, value: Value) -> str | None:
    if parameter.read is not None:
        parameter.read(str(value))
        return None
    low, high = parameter.minimum, parameter.maximum
    if parameter.kind == "text":
        size = len(str(value).strip())
        if (low or 0) <= size <= (high or 0):
            return None
        return (
            f"{spec.label}: {parameter.label} has {size} characters; it must have {low or 0:g} to "
            f"{high or 0:g}."
        )
    where = f"{spec.label}: {parameter.label} is {value}"
    if parameter.kind == "choice":
        if value in parameter.choices:
            return None
        return f"{where}, which is none of: {', '.join(parameter.choices)}."
    if isinstance(value, str | bool):
        return f"{where}, which is not a number."
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{where}; it must lie between {low:g} and {high:g} (default {parameter.default})."
    return None


MAX_VARIANTS = 16
_MAX_BYTES = 4 * MAX_CHARACTERS


def read_variants(text: str) -> list[Variant]:
    """Parses the text of a field: no PeftConfig, one as a JSON object, or a list of them.

    Each may also have `learning_rate` and `base` ("nf4", "int8"). Raises `FtlabError` with the
    first problem; PEFT's own validation runs later (`ftlab.jobs.peft_check`).
    """
    if not text.strip():
        return []
    most = MAX_CHARACTERS * MAX_VARIANTS
    if len(text) > most:
        raise FtlabError(
            f"The PeftConfigs have {len(text):,} characters, and {most:,} are taken; leave out "
            "what has its default value."
        )
    try:
        value = read_json(text.encode("utf-8", "surrogatepass"))
    except Refused as error:
        raise FtlabError(f"The PeftConfig {error.what}; correct it.") from None
    objects = value if isinstance(value, list) else [value]
    if len(objects) > MAX_VARIANTS:
        raise FtlabError(f"{len(objects)} PeftConfigs are given, and {MAX_VARIANTS} are taken.")
    variants: list[Variant] = []
    for item in objects:
        variant = _variant(item)
        if variant in variants:
            raise FtlabError(f"{variant.label} is there twice; give it once.")
        variants.append(variant)
    return variants


def write_variants(variants: Sequence[Variant]) -> str:
    """The inverse of `read_variants`: the text of the field; "" for no variants."""
    objects = [_object(variant) for variant in variants]
    if not objects:
        return ""
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=2)


def read_option(text: str) -> Variant:
    """Reads the PeftConfig from `FILE.json` or `FILE.json:learning_rate=1e-3,base=nf4`.

    Raises `FtlabError` if the file cannot be read, or does not contain exactly one PeftConfig.
    """
    name, colon, settings = text.rpartition(":")
    if Path(text).is_file() or not colon or "=" not in settings:
        name, settings = text, ""
    try:
        with Path(name).expanduser().open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise FtlabError(f"it is longer than {_MAX_BYTES:,} bytes; name a smaller file.")
        variants = read_variants(data.decode("utf-8"))
    except OSError as error:
        raise FtlabError(
            f"The PeftConfig '{name[:200]}' cannot be read ({error.strerror}); name a JSON file."
        ) from None
    except ValueError:  # not UTF-8, or a NUL in the name
        raise FtlabError(f"The PeftConfig '{name[:200]}' is no text in UTF-8.") from None
    except FtlabError as error:
        raise FtlabError(f"{name[:200]}: {error}") from None
    if len(variants) != 1:
        raise FtlabError(
            f"{name[:200]} holds {len(variants)} PeftConfigs; give each a file and an option of "
            "its own."
        )
    return with_settings(variants[0], settings)


def _variant(value: Any) -> Variant:
    if not isinstance(value, dict):
        raise FtlabError('The PeftConfig is no JSON object; write it as in {"peft_type": "C3A"}.')
    config = {key: item for key, item in value.items() if key not in (LEARNING_RATE, BASE)}
    variant = with_setting(Variant(PEFT.id), CONFIG, canonical_text(config))
    for name in (LEARNING_RATE, BASE):
        given = value.get(name)
        if given is not None:
            variant = with_setting(variant, name, given if isinstance(given, float) else str(given))
    return variant


def _object(variant: Variant) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(str(variant.values()[CONFIG]))
    own = {LEARNING_RATE: variant.learning_rate, BASE: variant.base}
    first = {"peft_type": config.pop("peft_type")}
    return first | config | {name: value for name, value in own.items() if value is not None}
