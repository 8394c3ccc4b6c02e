"""The ladders as a Markdown page: what was tried, on which machine, and what is suggested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.models.reference import model_label
from ftlab.runs.directory import write_atomically
from ftlab.runs.result import STATUS_LABELS
from ftlab.runs.spec import DTYPE_POLICIES
from ftlab.runs.store import Run
from ftlab.tuning.reading import Tuned
from ftlab.tuning.suggest import EXTENSIONS, NOISE, Point
from ftlab.units import DASH
from ftlab.words import join_names, plural, rate_name

_HEAD = """# How the learning rates were found

Every method has a learning rate of its own by default, because one rate for all would flatter the
methods that it happens to suit. The defaults come from short ladders: a few rates, each a run of
its own, held against each other by their loss on the task's tuning examples. The held-out examples,
on which results are reported, play no part."""

_RULE = f"""## The rule

Suggested is the rate with the lowest mean tuning loss after the last step. A rate is within noise
of it if its loss is at most {100 * NOISE:g} % higher, or if the 95 % interval of the difference (a
bootstrap, paired by example) holds zero; of those the smallest is suggested, as the safer one in a
longer run. Where the suggestion is the lowest or the highest rate of the ladder, one more is tried
beyond it, {EXTENSIONS} at most. A diverged run has no loss."""


def write_document(path: Path, ladders: Sequence[Tuned], command: str) -> None:
    """Writes the page, whole or not at all. Raises `FtlabError` where the file cannot be written.

    `command` is what made the runs.
    """
    try:
        write_atomically(path, document(ladders, command).encode())
    except OSError as error:
        raise FtlabError(
            f"'{path}' cannot be written ({error.strerror}); name another file with --write."
        ) from None


def document(ladders: Sequence[Tuned], command: str) -> str:
    """The page, its ladders in the order of the registry."""
    order = list(METHODS)
    shown = sorted(ladders, key=lambda tuned: order.index(tuned.variant.method))
    parts = [
        _HEAD,
        f"    {command}",
        "\n".join(_conditions([run for tuned in shown for run in tuned.runs])),
        _RULE,
        "## The ladders",
        "Loss in nats a token after the last step; **bold** is the suggestion, the default what the"
        "\nregistry holds.",
        "\n".join([
            "| Method | Untouched | Rate: tuning loss | Suggested | Default |",
            "| --- | ---: | --- | ---: | ---: |",
            *map(_row, shown),
        ]),
        *_differences(shown),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(tuned: Tuned) -> str:
    rate = tuned.suggestion.rate
    untouched = DASH if tuned.base_loss is None else f"{tuned.base_loss:.3f}"
    if all(point.status == "not_applicable" for point in tuned.points):
        ladder = f"not applicable: {' '.join(tuned.reasons)}"
    else:
        ladder = ", ".join(_cell(point, point.rate == rate) for point in tuned.points)
    default = rate_name(tuned.variant.spec.learning_rate)
    return f"| {tuned.variant.label} | {untouched} | {ladder} | {rate_name(rate)} | {default} |"


def _cell(point: Point, is_suggested: bool) -> str:
    loss = STATUS_LABELS[point.status] if point.loss is None else f"{point.loss:.3f}"
    text = f"{rate_name(point.rate)}: {loss}"
    return f"**{text}**" if is_suggested else text


def _conditions(runs: Sequence[Run]) -> list[str]:
    """What the runs shared; where they did not, each value once."""
    settings = [run.spec.settings for run in runs]
    environments = [run.result.environment for run in runs if run.result]
    packages = [
        f"{name} {version}"
        for environment in environments
        for name, version in sorted((environment.get("packages") or {}).items())
    ]
    facts = {
        "Model": [model_label(run.spec.model) for run in runs],
        "Task": [run.spec.task.label for run in runs],
        "Steps": [f"{s.steps}, {s.schedule} after {s.warmup_steps} of warm-up" for s in settings],
        "Batch": [f"{s.batch_size} x {s.accumulation}" for s in settings],
        "Measured on": [plural(s.eval_examples, "tuning example") for s in settings],
        "Seeds": [str(seed) for seed in sorted({run.spec.seed for run in runs})],
        "Dtype policy": [DTYPE_POLICIES[run.spec.dtype_policy] for run in runs],
        "Machine": [str(found["device"]) for found in environments if found.get("device")],
        "Packages": packages,
        "Date": [time.strftime("%d %b %Y", time.localtime(run.spec.created_at)) for run in runs],
    }
    return [
        f"- {name}: {join_names(list(dict.fromkeys(values)))}"
        for name, values in facts.items()
        if values
    ]


def _differences(ladders: Sequence[Tuned]) -> list[str]:
    """Says of each default that is not the suggestion how far behind it lies."""
    lines = []
    for tuned in ladders:
        default, rate = tuned.variant.spec.learning_rate, tuned.suggestion.rate
        losses = {point.rate: point.loss for point in tuned.points}
        best = None if rate is None else losses[rate]
        if best is None or rate == default:
            continue
        own = losses.get(default)
        found = "is not on the ladder"
        if own is not None:
            side = "above" if own >= best else "below"
            share = 100 * abs(own / best - 1)
            found = f"has a loss {share:.1f} % {side} that at {rate_name(rate)}"
        lines.append(f"- {tuned.variant.label}: {rate_name(default)} {found}.")
    return ["## Defaults that are not the suggestion", "\n".join(lines)] if lines else []
