"""Any adapter type of PEFT, given as a PeftConfig in JSON.

This module parses, validates and normalises the text without PEFT. The rest is validated with the
real config class and a small model in a separate process (`ftlab.jobs.peft_check_worker`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NoReturn

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import did_you_mean
from ftlab.methods.peft_rules import (
    CANNOT_ANSWER,
    CONVERTED_INITS,
    PEFT_TYPES,
    WAY_OUT,
    Refused,
    base_changes,
    foreign_part,
    leaves,
    read_object,
    shown,
    unknown_type,
    wrong_pattern,
)
from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, RunPlan, Values

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG = "config"
"""The method's only hyperparameter: the configuration as canonical JSON text."""

TASK_TYPE = "CAUSAL_LM"
MAX_CHARACTERS = 200_000

_MAX_NUMBER = 10**9
_LABEL_CHARACTERS = 48
_PLAIN = re.compile(r"[\w.:-]{1,24}", re.ASCII)

_SAYS_NOTHING = ("task_type", "peft_version")
_NOT_HERE = {
    "base_model_name_or_path": "names a base, and the base is the sweep's own model",
    "revision": "names a version of a base, and the base is the sweep's own model",
    "auto_mapping": "names a class to import, and task_type says all that is needed",
    "inference_mode": "asks for an adapter that learns nothing",
    "runtime_config": "says how to run, which PEFT keeps in no file",
    "tokenizer_name_or_path": "names a tokenizer, and that is the model's own",
    "tokenizer_kwargs": "says how to load a tokenizer, and that is the model's own",
    "prompt_tuning_init_state_dict_path": "names a file to start from, and a run reads none",
    "eva_config": "starts from activations that would have to be collected first",
    "corda_config": "starts from covariances that would have to be collected first",
    "lora_ga_config": "starts from gradients that would have to be collected first",
    "loftq_config": "starts from a base that is quantised anew; use base=nf4 instead",
}
"""Fields that must be empty, with the reason."""

_NEEDS_DATA = {
    "eva": "activations",
    "corda": "covariances",
    "lora_ga": "gradients",
    "loftq": "a base quantised anew",
}
_PATTERNS = ("_modules", "_pattern", "_parameters", "modules_to_save")
"""Suffixes of fields with patterns of layer names, which may contain a backslash."""

_FREE_TEXT = ("prompt_tuning_init_text",)


@lru_cache(maxsize=256)
def canonical_config(text: str) -> str:
    """The configuration in canonical form: sorted keys, without fields that have no effect.

    Raises `FtlabError` with the first reason why it cannot be trained.
    """
    if not text.strip():
        raise FtlabError(
            'No PeftConfig is given; write one as JSON, as in {"peft_type": "C3A"}, or name its '
            "file with --peft-config."
        )
    if len(text) > MAX_CHARACTERS:
        _refuse(
            f"has {len(text):,} characters, and {MAX_CHARACTERS:,} are taken",
            "leave out what has its default value",
        )
    try:
        config = read_object(text.encode("utf-8", "surrogatepass"))
    except Refused as error:
        _refuse(error.what, "correct it")
    return canonical_text(_judged(config))


def canonical_text(config: Mapping[str, Any]) -> str:
    """The object as JSON in the canonical form that is stored and compared."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def _judged(config: dict[str, Any]) -> dict[str, Any]:
    """The validated configuration without fields that have no effect. Raises `FtlabError`."""
    peft_type = config.get("peft_type")
    unknown = unknown_type(peft_type)
    if unknown:
        near = did_you_mean(str(peft_type).upper(), PEFT_TYPES)
        raise FtlabError(f"The PeftConfig {unknown}.{near or ' Name one that it has.'}")
    if peft_type in CANNOT_ANSWER:
        _refuse(f"describes a {peft_type}: {CANNOT_ANSWER[peft_type]}", "choose another kind")
    task = config.get("task_type")
    if task not in (None, TASK_TYPE):
        _refuse(
            f"has the task_type {shown(task)}, and only {TASK_TYPE} is trained here",
            "leave task_type out",
        )
    for field, why in _NOT_HERE.items():
        if config.get(field):
            _refuse(f"{why} ({field})", "leave it out")
    foreign = foreign_part(config)
    if foreign:
        _refuse(foreign, "leave it out")
    _check_start(config)
    for key, value in leaves(config):
        _check_leaf(key, value)
    wrong = wrong_pattern(config)
    if wrong:
        _refuse(wrong, WAY_OUT)
    return {
        key: value
        for key, value in config.items()
        if key not in _SAYS_NOTHING and key not in _NOT_HERE
    }


def _check_start(config: Mapping[str, Any]) -> None:
    start = str(config.get("init_lora_weights")).lower()
    needs = next((what for name, what in _NEEDS_DATA.items() if start.startswith(name)), "")
    if needs:
        _refuse(
            f"says init_lora_weights={start[:40]!r}, which needs {needs} before the run",
            "choose another start, such as pissa or gaussian",
        )
    for field, what in base_changes(config):
        if not (field == "init_lora_weights" and start.startswith(CONVERTED_INITS)):
            _refuse(f"{what}, so the adapter would fit no base that others have", "leave it out")


def _check_leaf(key: str, value: Any) -> None:
    if isinstance(value, int | float) and abs(value) > _MAX_NUMBER:
        _refuse(f"has {shown(key)} with {shown(value)}, which is too large", "choose a smaller one")
    if not isinstance(value, str) or key in _FREE_TEXT:
        return
    if not value.isprintable():
        _refuse(f"has characters that cannot be shown in {shown(key)}", "leave them out")
    path = not key.endswith(_PATTERNS) and (value.startswith("~") or set(value) & set("/\\"))
    if path or "://" in value:
        _refuse(
            f"names a file or an address in {shown(key)} ({shown(value)}), and a run reads none",
            "leave it out",
        )


def _refuse(what: str, way_out: str) -> NoReturn:
    raise FtlabError(f"The PeftConfig {what}; {way_out}.") from None


def config_label(values: Values) -> str:
    """The adapter type and its settings, as in "C3A block_size=64", safe for pages and terminals.

    A short hash is appended if settings with other characters were left out or the label was cut.
    """
    text = str(values[CONFIG])
    try:
        config = read_object(text.encode("utf-8", "surrogatepass"))
    except Refused:
        return PEFT.label
    parts, whole = [], True
    for key in sorted(config.keys() - {"peft_type"}):
        part = f"{key}={_word(config[key])}"
        if _PLAIN.fullmatch(key) and _word(config[key]):
            parts.append(part)
        else:
            whole = False
    name = str(config.get("peft_type"))
    label = " ".join([name if name in PEFT_TYPES else PEFT.label, *parts])
    if whole and len(label) <= _LABEL_CHARACTERS:
        return label
    kept = label if len(label) <= _LABEL_CHARACTERS else label[: _LABEL_CHARACTERS - 1] + "…"
    return f"{kept} #{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:4]}"


def _word(value: Any) -> str:
    """A value formatted for a label; "" if it contains other characters or is too long."""
    if isinstance(value, list) and value and all(isinstance(item, str | int) for item in value):
        words = [_word(item) for item in value]
        return "+".join(words) if all(words) else ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else ""


def build_config(values: Values, plan: RunPlan) -> PeftConfig:
    """PEFT's config object, completed with values of the run (steps, tokenizer)."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    given = json.loads(str(values[CONFIG])) | {"task_type": TASK_TYPE}
    peft_type = given["peft_type"]
    if peft_type == "ADALORA":
        given.setdefault("total_step", plan.steps)
    if str(given.get("prompt_tuning_init", "")).upper() == "TEXT":
        given["tokenizer_name_or_path"] = plan.tokenizer
    return PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](**given)


PEFT = MethodSpec(
    id="peft",
    label="PEFT",
    family="structured",
    summary="Any kind of adapter that PEFT has, by its configuration.",
    paper=Paper(
        "Mangrulkar et al. 2022, PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods",
        "https://github.com/huggingface/peft",
    ),
    look=Look(colour="#d6457f", marker="hexagram", dash="longdash"),
    learning_rate=1e-3,
    hyperparameters=(
        Hyperparameter(
            CONFIG,
            "PeftConfig",
            "text",
            "",
            "PEFT's own configuration as JSON, as in an adapter_config.json.",
            1,
            MAX_CHARACTERS,
            read=canonical_config,
        ),
    ),
    peft_config=build_config,
    names=config_label,
)
"""Not in `METHODS`: it needs a configuration before it can be used."""
