"""An adapter from its PeftConfig, as in an adapter_config.json or a published result.

A run refuses fields that it cannot apply: the file's own base model, an initialisation from data.
Here nothing is trained, so fields that do not affect shapes are ignored instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.methods.by_hand import CONFIG, MAX_CHARACTERS, PEFT, canonical_text
from ftlab.methods.peft_rules import PEFT_TYPES, foreign_part, unknown_type
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant

_NO_SHAPE = (
    "task_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping",
    "inference_mode", "runtime_config", "tokenizer_name_or_path", "tokenizer_kwargs",
)  # fmt: skip


def adapter_from(config: Mapping[str, Any], base: BasePrecision | None = None) -> Variant:
    """Returns the variant; raises `FtlabError` for an unknown type, and for files or modules."""
    kind = str(config.get("peft_type", "")).upper()
    if kind not in PEFT_TYPES:
        raise FtlabError(f"The PeftConfig {unknown_type(config.get('peft_type'))}.")
    foreign = foreign_part(dict(config))
    if foreign:
        raise FtlabError(f"The PeftConfig {foreign}; leave it out.")
    kept = {name: value for name, value in config.items() if name not in _NO_SHAPE}
    return Variant(PEFT.id, {CONFIG: canonical_text(kept | {"peft_type": kind})}, base=base)


def read_adapter(name: str) -> Variant:
    """Reads a PeftConfig file; raises `FtlabError` with the file's name."""
    try:
        with Path(name).expanduser().open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "it is no text"
        raise FtlabError(
            f"The PeftConfig '{name[:200]}' cannot be read ({what}); name a JSON file."
        ) from None
    if len(text) > MAX_CHARACTERS:
        raise FtlabError(f"{name[:200]} has more than {MAX_CHARACTERS:,} characters.")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise FtlabError(f"{name[:200]} is not valid JSON; give a PeftConfig.") from None
    if not isinstance(config, dict):
        raise FtlabError(f'{name[:200]} is no JSON object; write it as in {{"peft_type": "C3A"}}.')
    try:
        return adapter_from(config)
    except FtlabError as error:
        raise FtlabError(f"{name[:200]}: {error}") from None
