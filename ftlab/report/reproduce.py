"""The command that runs a sweep again, from the specs of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ftlab.methods.variant import Variant, format_variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.runs.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference

# Said even where they are the defaults, which may be others in a later version.
_ALWAYS = ("steps", "batch_size", "max_length", "eval_examples")


@dataclass(frozen=True)
class Command:
    """`parts` are options with their values, quoted for a shell; `note`: what it cannot say."""

    parts: tuple[str, ...]
    note: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.parts)

    @property
    def lines(self) -> str:
        """The command over several lines, as a shell takes it."""
        return " \\\n  ".join(self.parts)


def command_of(request: SweepRequest) -> Command:
    """The `sweep` command that asks for the same."""
    parts = [
        "python -m ftlab sweep",
        *([] if request.model in ("bundled", BUNDLED_ID) else [_option("model", request.model)]),
        *_task(request.task),
        *_variants(request.variants),
        _option("seeds", ",".join(map(str, request.seeds))),
        *_settings(request.settings),
        _option("dtype-policy", request.dtype_policy),
        _option("device", request.device),
        *([_option("memory-limit", request.memory_limit)] if request.memory_limit else []),
    ]
    return Command(tuple(parts), _note(request))


def _option(name: str, value: object) -> str:
    text = shlex.quote(str(value))
    # A value with a dash in front would be taken for an option of its own.
    return f"--{name}={text}" if str(value).startswith("-") else f"--{name} {text}"


def _task(task: TaskReference) -> list[str]:
    parts = [_option("task", f"hub:{task.id}" if task.kind == "hub" else task.id)]
    if task.mapping is not None:
        named = {field.name: getattr(task.mapping, field.name) for field in fields(task.mapping)}
        columns = ",".join(f"{role}={column}" for role, column in named.items() if column)
        parts += [_option("columns", columns)] if columns else []
    for name, value in (
        ("metric", task.metric),
        ("hub-config", task.config),
        ("hub-split", task.split),
    ):
        parts += [_option(name, value)] if value else []
    return parts


def _variants(variants: Sequence[Variant]) -> list[str]:
    texts = [format_variant(variant) for variant in variants]
    if all(":" not in text for text in texts):
        return [_option("methods", ",".join(texts))]
    return [_option("variant", text) for text in texts]


def _settings(settings: TrainingSettings) -> list[str]:
    defaults = TrainingSettings()
    parts = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == getattr(defaults, field.name) and field.name not in _ALWAYS:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            parts.append(_option(name, ",".join(map(str, value))))
        else:
            parts.append(_option(name, value))
    return parts


def _note(request: SweepRequest) -> str:
    """What the command line has no option for."""
    if request.task.seed:
        return f"The data were drawn with seed {request.task.seed}; the command line uses seed 0."
    mapping = request.task.mapping
    columns = [] if mapping is None else [getattr(mapping, field.name) for field in fields(mapping)]
    if any("," in column or column != column.strip() for column in columns if column):
        return (
            "A column's name holds a comma or begins or ends with a space, which the command line "
            "cannot say; rename it first."
        )
    return ""
