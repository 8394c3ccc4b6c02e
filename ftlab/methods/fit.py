"""What keeps a variant from being trained, found before the run starts and said in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from ftlab.devices import CPU, kind_of
from ftlab.errors import FtlabError, NotApplicable
from ftlab.methods.capabilities import capabilities, why_not_offered
from ftlab.methods.shape import ModelShape
from ftlab.methods.spec import MethodSpec, Misfit, Values
from ftlab.methods.targets import misfit, reached_experts
from ftlab.methods.variant import Variant

if TYPE_CHECKING:
    from ftlab.settings.training import TrainingSettings

_QUANTISERS = ("bitsandbytes",)


@dataclass(frozen=True)
class Unfit:
    """Why a variant cannot run. `field` is what to change ("lora.r"), "" where nothing would help.

    `not_applicable` says that no value of the variant's own is wrong: the method does not go with
    the model, the installed versions or what holds for the whole sweep, so a sweep leaves it out
    and says so. Else a value is wrong, and the request is refused.
    """

    message: str
    field: str = ""
    not_applicable: bool = True

    def refuse(self) -> NoReturn:
        """Raises `NotApplicable` or `FtlabError` with the sentence."""
        raise (NotApplicable if self.not_applicable else FtlabError)(self.message)


def unfit(
    variant: Variant, shape: ModelShape | None, settings: TrainingSettings, device_id: str = CPU
) -> Unfit | None:
    """The first thing that keeps a valid variant from being trained under the settings.

    `shape` is `None` for a model that is not here yet; then only the rest is looked at. `None`:
    nothing is known to be in the way.
    """
    return (
        _not_offered(variant)
        or _not_installed(variant)
        or _not_on_base(variant, device_id)
        or _not_under(variant, settings)
        or (None if shape is None else unfit_for_model(variant, shape))
        or (None if shape is None else _too_long(variant, shape, settings))
    )


def unfit_for_model(variant: Variant, shape: ModelShape) -> Unfit | None:
    """What about the model alone keeps the variant from being trained on it."""
    method, values = variant.spec, variant.values()
    reason = method.applies(shape, values)
    if reason:
        return Unfit(f"{method.label}: {reason}.")
    found = misfit(method, shape, values) or _dropout_on_experts(method, shape, values)
    if found is None:
        return None
    return Unfit(f"{method.label}: {found.why}.", f"{method.id}.{found.name}", False)


def _dropout_on_experts(method: MethodSpec, shape: ModelShape, values: Values) -> Misfit | None:
    """PEFT lays LoRA over a matrix of experts by adding B·A to it, where no input can be dropped
    (`ParamWrapper` in peft/tuners/lora/layer.py)."""
    if not values.get("dropout") or not reached_experts(method, shape, values):
        return None
    return Misfit(
        "dropout",
        f"dropout {values['dropout']} cannot be had on experts, which PEFT adapts as one matrix; "
        "choose dropout 0, or the layers attention",
    )


def _not_offered(variant: Variant) -> Unfit | None:
    reason = why_not_offered(variant.method)
    return Unfit(f"{variant.spec.label}: {reason.rstrip('.')}.") if reason else None


def _not_installed(variant: Variant) -> Unfit | None:
    needed = variant.spec.requires + (_QUANTISERS if variant.base_precision else ())
    missing = next((name for name in needed if find_spec(name) is None), None)
    if missing is None:
        return None
    return Unfit(
        f"{variant.spec.label} needs the package {missing}, which is not installed; "
        f"install it with pip install {missing}, and start ftlab again."
    )


def failed_on_base(variant: Variant) -> bool:
    """Whether the method was seen not to learn on a base in so few bits, when it was probed."""
    seen, base = capabilities().get(variant.method), variant.base_precision
    if seen is None or base is None:
        return False
    return (seen.on_4bit if base == "nf4" else seen.on_8bit) is False


def _not_on_base(variant: Variant, device_id: str) -> Unfit | None:
    """Bases in few bits are computed by other code on each kind of device, so what was seen on a
    CPU binds a CPU alone."""
    if kind_of(device_id) != CPU or not failed_on_base(variant):
        return None
    base = variant.base_precision
    return Unfit(
        f"{variant.spec.label} does not learn on a base held in {base} with the installed "
        "versions; choose LoRA."
    )


def _not_under(variant: Variant, settings: TrainingSettings) -> Unfit | None:
    """Settings of the whole sweep that the method cannot be trained under."""
    seen, label = capabilities().get(variant.method), variant.spec.label
    if settings.gradient_checkpointing and seen is not None and seen.with_checkpointing is False:
        return Unfit(
            f"{label} does not learn under gradient checkpointing with the installed versions; "
            f"switch it off, or leave {label} out.",
            "settings.gradient_checkpointing",
        )
    own = variant.spec.optimizer
    if own is not None and own.replaces not in ("", settings.optimizer):
        return Unfit(
            f"{label} brings its own {own.what} and cannot use '{settings.optimizer}'; "
            f"choose {own.replaces}, or leave {label} out.",
            "settings.optimizer",
        )
    return None


def _too_long(variant: Variant, shape: ModelShape, settings: TrainingSettings) -> Unfit | None:
    """Soft tokens stand before the text and take up positions as well."""
    name = variant.spec.soft_tokens
    if name is None or shape.positions is None:
        return None
    tokens = int(variant.values()[name])
    if tokens + settings.max_length <= shape.positions:
        return None
    left = shape.positions - settings.max_length
    way_out = f"choose {left:,} or fewer, or a shorter" if left > 0 else "choose a shorter"
    return Unfit(
        f"{variant.spec.label}: {tokens:,} soft tokens and a maximum length of "
        f"{settings.max_length:,} are more than the model's {shape.positions:,} positions; "
        f"{way_out} maximum length.",
        f"{variant.method}.{name}",
        False,
    )
