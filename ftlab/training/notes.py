"""What a run's record says of its settings."""

from __future__ import annotations

from ftlab.methods.fit import failed_on_base
from ftlab.runs.spec import RunSpec
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.trainer import effective_warmup


def notes_on_settings(spec: RunSpec, arithmetic: Arithmetic, skipped: int = 0) -> list[str]:
    """Sentences on settings that do less, or other, than their name says.

    `skipped` is how many steps overflowed in fp16.
    """
    settings, device = spec.settings, arithmetic.device.type
    notes = []
    warmup = effective_warmup(settings)
    if warmup < settings.warmup_steps:
        notes.append(
            f"Warm-up was cut from {settings.warmup_steps} steps to {warmup}, "
            f"a quarter of the {settings.steps} steps."
        )
    if settings.optimizer != "adamw":
        notes.append(
            "8-bit AdamW keeps 32-bit state for embeddings and for weights of under 4,096 numbers."
        )
    if settings.optimizer == "paged_adamw_8bit":
        notes.append(
            "The paged optimizer pages nothing on a CPU."
            if device == "cpu"
            else "Paged optimizer state lies outside torch's allocator, so torch's peaks leave it "
            "out; where it does not fit the GPU it is moved to the host's memory and back."
        )
    if arithmetic.needs_grad_scaler:
        notes.append("This GPU has no bf16: products are computed in fp16 with scaled gradients.")
    if skipped:
        notes.append(
            f"{skipped} of {settings.steps} steps overflowed in fp16 and changed nothing, while "
            "the scale of the gradients was being found."
        )
    if spec.variant is not None and device != "cpu" and failed_on_base(spec.variant):
        notes.append(
            f"On a CPU {spec.variant.spec.label} was seen not to learn on a base held in "
            f"{spec.base_precision}; on this device nobody has tried."
        )
    if spec.base_precision == "nf4":
        notes.append(
            "Only the linear layers of a 4-bit base are quantised, not its embeddings, "
            "so a small model saves a smaller share of memory than a large one."
        )
    return notes
