"""Writes the learning rate ladders as a Markdown page: tried rates, machine and suggested rates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from ftlab.basics.errors import FtlabError
from ftlab.basics.units import DASH
from ftlab.basics.words import join_names, plural, rate_name
from ftlab.jobs.tuning import EXTENSIONS, NOISE, Point, Tuned
from ftlab.methods.rates import (
    BY_WIDTH,
    LLAMA_EXPONENT,
    QWEN_EXPONENT,
    TUNED_ON,
    ModelSize,
    RateRule,
)
from ftlab.methods.registry import METHODS
from ftlab.models.reference import model_label
from ftlab.records.comparability import scored_by
from ftlab.records.result import STATUS_LABELS
from ftlab.records.run import write_atomically
from ftlab.records.store import Run
from ftlab.settings.training import DTYPE_POLICIES

_LINE = 100

_HEAD = """# How the learning rates were found

Every method has a learning rate of its own by default, because one rate for all would flatter the
methods that it happens to suit. The defaults come from short ladders: a few rates, each a run of
its own, held against each other by their loss on the task's tuning examples. The test examples,
on which results are reported, play no part."""

_RULE = f"""## The rule

Suggested is the rate with the lowest mean tuning loss after the last step. A rate is within noise
of it if its loss is at most {100 * NOISE:g} % higher, or if the 95 % interval of the difference (a
bootstrap, paired by example) holds zero; of those the smallest is suggested, as the safer one in a
longer run. Where the suggestion is the lowest or the highest rate of the ladder, one more is tried
beyond it, {EXTENSIONS} at most. A diverged run has no loss."""

_LORA = METHODS["lora"]
_SIZES = (
    f"The rates were tuned on the bundled model alone, which is {TUNED_ON.hidden} numbers wide. "
    "For another model a run starts from tuned rate x rule(size) / rule(bundled model), to two "
    f"significant digits: {_LORA.label}'s {rate_name(_LORA.learning_rate)} becomes "
    f"{rate_name(_LORA.rate_for(ModelSize('llama', 2048)))} on a Llama of 1B and "
    f"{rate_name(_LORA.rate_for(ModelSize('llama', 4096)))} on one of 8B. That is a place to "
    "start from, not a tuned rate: `python -m ftlab tune --model MODEL`, or the button beside the "
    "methods in Experiment, tunes it.",
    "The published rule was fitted on models of the Llama and the Qwen family, LoRA and full "
    "fine-tuning alike, as LR = 5e-5 x M x (2000 / hidden size)^P, with M = 10 for LoRA and 1 for "
    f"full fine-tuning, and P = {LLAMA_EXPONENT} for Llama and {QWEN_EXPONENT} for Qwen. M "
    "cancels, as every method has a tuned rate of its own. Other families are scaled as a Llama: "
    "the rates were tuned on one, so that curve changes nothing at the bundled model's width. The "
    "bundled model is narrower than all that the rule was fitted on, so the step from it is an "
    "extrapolation.",
)
_OTHER_PAPERS = (
    "The papers of the other methods have no rule of their own. LoRA, DoRA, AdaLoRA and HRA tune "
    "rates for each model. QLoRA (2e-4 for 7B, 1e-4 for 65B), VeRA (0.1 for GPT-2 medium, 4e-3 "
    "for Llama 7B) and PiSSA (up to 5e-4 for 184M, 2e-5 from 7B on) take lower ones for larger "
    "models, as the published rule does. LoRA+ wants A's rate to fall with the width while B's "
    "stays, which is a matter of its ratio."
)


def write_document(path: Path, ladders: Sequence[Tuned], command: str) -> None:
    """Writes the page atomically; raises `FtlabError` if the file cannot be written.

    `command` is the command that made the runs.
    """
    try:
        write_atomically(path, document(ladders, command).encode())
    except OSError as error:
        raise FtlabError(
            f"'{path}' cannot be written ({error.strerror}); name another file with --write."
        ) from None


def document(ladders: Sequence[Tuned], command: str) -> str:
    """The page, with its ladders in the order of the registry."""
    order = list(METHODS)
    shown = sorted(ladders, key=lambda tuned: order.index(tuned.variant.method))
    parts = [
        _HEAD,
        f"    {command}",
        "\n".join(_conditions([run for tuned in shown for run in tuned.runs])),
        _RULE,
        sizes_section(),
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


def sizes_section() -> str:
    """The section on models of other sizes than the model that the rates were tuned on."""
    own: dict[RateRule, list[str]] = {}
    for spec in METHODS.values():
        if spec.rate_rule is not BY_WIDTH:
            own.setdefault(spec.rate_rule, []).append(spec.label)
    own[BY_WIDTH] = ["all others"]
    rules = [
        f"- {join_names(labels)}: the rate {rule.words} ([{rule.source}]({rule.url}))"
        for rule, labels in own.items()
    ]
    return "\n\n".join([
        "## Models of another size",
        *(fill(paragraph, _LINE) for paragraph in _SIZES),
        "\n".join(rules),
        fill(_OTHER_PAPERS, _LINE),
    ])  # fmt: skip


def _row(tuned: Tuned) -> str:
    rate = tuned.suggestion.rate
    untouched = DASH if tuned.base_loss is None else f"{tuned.base_loss:.3f}"
    if all(point.status == "not_applicable" for point in tuned.points):
        ladder = f"not applicable: {' '.join(tuned.reasons)}"
    else:
        ladder = ", ".join(_cell(point, point.rate == rate) for point in tuned.points)
    names = f"{rate_name(rate)} | {rate_name(tuned.default)}"
    return f"| {tuned.variant.label} | {untouched} | {ladder} | {names} |"


def _cell(point: Point, is_suggested: bool) -> str:
    loss = STATUS_LABELS[point.status] if point.loss is None else f"{point.loss:.3f}"
    text = f"{rate_name(point.rate)}: {loss}"
    return f"**{text}**" if is_suggested else text


def _conditions(runs: Sequence[Run]) -> list[str]:
    """The conditions of the runs; where runs differ, each value once."""
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
        "Measured on": [
            plural(scored, "tuning example") for run in runs if (scored := scored_by(run))
        ],
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
    """Lists the defaults that are not suggested, and how far their loss is from the best one."""
    lines = []
    for tuned in ladders:
        default, rate = tuned.default, tuned.suggestion.rate
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
