"""Whether what a run writes has room on the disk; found before it starts, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ftlab.devices import list_devices
from ftlab.errors import FtlabError
from ftlab.methods.variant import trainable_parameters
from ftlab.models.shape import shape_of_model
from ftlab.paths import free_disk_bytes
from ftlab.runs.checkpoints import checkpoint_interval
from ftlab.runs.spec import RunSpec
from ftlab.tasks.custom import MAX_EVALUATION
from ftlab.units import format_bytes

_BYTES_A_STEP = 400  # its line in metrics.jsonl
_BYTES_AN_ANSWER = 16_000  # its line in samples.jsonl
_TOKENIZER_BYTES = 20_000_000  # saved with a whole model
_COPIES = 3
"""Of an adapter at most: one that changes the base keeps its start, and has twice its rank."""
_CHECKPOINTS = 3
_MARGIN_BYTES = 10_000_000  # everything else, the log above all


def needed_bytes(spec: RunSpec) -> int:
    """What the run may write at most, in bytes: what it saves, its checkpoints and its records."""
    return _saved_bytes(spec) + checkpoint_bytes(spec) + _record_bytes(spec)


def checkpoint_bytes(spec: RunSpec) -> int:
    """What the checkpoints of a run take while it goes: two are kept while a third is written.

    Each holds what learns and AdamW's two moments of it, in the same precision. 0 where the number
    of weights that learn is known only when they are made.
    """
    variant = spec.variant
    shape = None if variant is None else shape_of_model(spec.model)
    if variant is None or shape is None or not checkpoint_interval(spec.settings):
        return 0
    size = 4 if variant.spec.is_adapter else _weight_bytes(spec)
    return _CHECKPOINTS * 3 * size * (trainable_parameters(variant, shape) or 0)


def check_space(specs: Iterable[RunSpec], folder: Path) -> None:
    """Raises `FtlabError` if the runs, one after another, have no room where their folders lie."""
    needed, free = sum(map(needed_bytes, specs)), free_disk_bytes(folder)
    if free is not None and free < needed:
        raise FtlabError(
            f"{format_bytes(free)} are free in '{folder}', and what is to be saved there may take "
            f"{format_bytes(needed)}; free some space, or name another folder with --runs-dir."
        )


def _saved_bytes(spec: RunSpec) -> int:
    """An adapter at 4 bytes a number, or the model; 0 where its size is known only when it is made.

    Those are configurations by hand, and models that are not on this machine yet.
    """
    variant = spec.variant
    shape = None if variant is None else shape_of_model(spec.model)
    if variant is None or shape is None:
        return 0
    if variant.spec.ships_whole_model:
        return shape.total * _weight_bytes(spec) + _TOKENIZER_BYTES
    return _COPIES * 4 * (trainable_parameters(variant, shape) or 0)


def _weight_bytes(spec: RunSpec) -> int:
    """Of a base weight that learns: on a GPU without bf16 it is held in 32 bits."""
    lacks_bf16 = any(device.id == spec.device and device.lacks_bf16 for device in list_devices())
    return 2 if spec.dtype_policy == "bf16" and not lacks_bf16 else 4


def _record_bytes(spec: RunSpec) -> int:
    settings = spec.settings
    answers = min(settings.eval_examples, MAX_EVALUATION) * _BYTES_AN_ANSWER
    return settings.steps * _BYTES_A_STEP + answers + _MARGIN_BYTES
