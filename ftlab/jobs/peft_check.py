"""Checks hand-written PeftConfigs with PEFT, in a subprocess that exits after its answer.

The subprocess (`ftlab.jobs.peft_check_worker`) imports torch and PEFT, which takes some seconds.
The page therefore checks when a request is launched or the field loses focus, not on every key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.basics.processes import WorkerEnded, answer_once, module_command
from ftlab.methods.by_hand import CONFIG, PEFT
from ftlab.methods.variant import Variant, validate_variant
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.records.spec import SweepRequest

FIELD = "peft_json"
"""The name of the form field with the configurations, used in error messages."""

MODULE = "ftlab.jobs.peft_check_worker"
SECONDS, SECONDS_EACH = 60, 20
"""The timeout: for the imports, and for each configuration."""

_ASKING = Lock()


@dataclass(frozen=True)
class Checked:
    """PEFT's result for one variant.

    `variant` is without default values; `trainable` is the number of trainable parameters on the
    model (`None`: the model is not local, or the number is not known); `error` is a sentence, or ""
    if the configuration is valid.
    """

    variant: Variant
    trainable: int | None = None
    error: str = ""


def by_hand(variants: Sequence[Variant]) -> list[Variant]:
    """Returns the variants with a hand-written PeftConfig."""
    return [variant for variant in variants if variant.method == PEFT.id]


def check_request(request: SweepRequest) -> tuple[SweepRequest, list[FieldError]]:
    """Returns the request with its PeftConfigs normalised by PEFT, and their errors.

    Returns at once if it has no PeftConfig. Raises `FtlabError` if the check cannot run.
    """
    asked = by_hand(request.variants)
    if not asked:
        return request, []
    checked = iter(check_variants(asked, request))
    variants: list[Variant] = []
    errors = []
    for variant in request.variants:
        found = next(checked) if variant.method == PEFT.id else Checked(variant)
        if found.error:
            errors.append(FieldError(FIELD, found.error))
        elif found.variant in variants:
            message = f"{found.variant.label} is in the sweep twice; name it once."
            errors.append(FieldError(FIELD, message))
        variants.append(found.variant)
    return replace(request, variants=tuple(variants)), errors


def check_variants(variants: Sequence[Variant], request: SweepRequest) -> list[Checked]:
    """Checks variants with PeftConfigs by hand; caches answers. May raise `FtlabError`."""
    problems = [validate_variant(variant) for variant in variants]
    sound = [variant for variant, wrong in zip(variants, problems, strict=True) if not wrong]
    answers = iter(_ask(sound, request) if sound else [])
    return [
        Checked(variant, None, wrong[0].message) if wrong else next(answers)
        for variant, wrong in zip(variants, problems, strict=True)
    ]


def _ask(variants: Sequence[Variant], request: SweepRequest) -> list[Checked]:
    texts = [str(variant.values()[CONFIG]) for variant in variants]
    folder = local_folder(parse_model(request.model))
    where = {
        "folder": str(folder or ""),
        "policy": request.dtype_policy,
        "checkpointing": request.settings.gradient_checkpointing,
        # Only AdaLoRA's ranks depend on the steps; the others can use the cached answer.
        "steps": request.settings.steps if any('"ADALORA"' in text for text in texts) else 1,
    }
    configs = [
        {"config": text, "base": variant.base}
        for text, variant in zip(texts, variants, strict=True)
    ]
    question = json.dumps({"where": where, "configs": configs}, sort_keys=True)
    with _ASKING:  # so that two callers with the same question run one check
        answers = json.loads(_answer(question, _changed_at(folder)))
    return [
        Checked(
            replace(variant, hyperparameters={CONFIG: answer["config"]}),
            answer["trainable"],
            answer["error"],
        )
        for variant, answer in zip(variants, answers, strict=True)
    ]


def seconds_for(configs: int) -> int:
    """Returns the timeout for this number of configurations."""
    return SECONDS + SECONDS_EACH * configs


@lru_cache(maxsize=64)
def _answer(question: str, changed_at: int) -> str:
    """The worker's answer; `changed_at` is part of the cache key, for when the model changes."""
    seconds = seconds_for(len(json.loads(question)["configs"]))
    try:
        return answer_once(module_command(MODULE), question, seconds=seconds)
    except TimeoutError:
        raise FtlabError(
            f"PEFT was asked about the PeftConfig for {seconds} s and did not answer; choose "
            "smaller sizes or simpler patterns, or try again when the machine is less busy."
        ) from None
    except OSError as error:
        raise FtlabError(f"PEFT cannot be asked about the PeftConfig ({error}).") from None
    except WorkerEnded as end:
        raise FtlabError(
            f"The check of the PeftConfig ended early ({end}); choose smaller sizes, or remove "
            "unusual fields."
        ) from None


def _changed_at(folder: Path | None) -> int:
    try:
        return (folder / "config.json").stat().st_mtime_ns if folder else 0
    except OSError:
        return 0
