"""Variants by their PeftConfig in JSON: as a field of the page holds them, and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.methods.by_hand import CONFIG, MAX_CHARACTERS, PEFT, canonical_text
from ftlab.methods.peft_rules import Refused, read_json
from ftlab.methods.variant import BASE, LEARNING_RATE, Variant, with_setting, with_settings

MAX_VARIANTS = 16
_MAX_BYTES = 4 * MAX_CHARACTERS


def read_variants(text: str) -> list[Variant]:
    """The variants that a field holds: one PeftConfig as a JSON object, or a list of them.

    Beside the configuration's own fields each may have `learning_rate` and `base` ("nf4", "int8").
    Empty text holds none. Raises `FtlabError` with the first thing that is wrong; PEFT itself is
    asked later (`ftlab.runs.peft_check`).
    """
    if not text.strip():
        return []
    most = MAX_CHARACTERS * MAX_VARIANTS
    if len(text) > most:
        raise FtlabError(
            f"The PeftConfigs have {len(text):,} characters, and {most:,} are taken; leave out "
            "what stands at its default."
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
    """The field's text from which `read_variants` makes these variants again; "" for none."""
    objects = [_object(variant) for variant in variants]
    if not objects:
        return ""
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=2)


def read_option(text: str) -> Variant:
    """Reads `FILE.json` or `FILE.json:learning_rate=1e-3,base=nf4`.

    Raises `FtlabError` if the file cannot be read, or does not hold one PeftConfig.
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
    except ValueError:  # no UTF-8, or a NUL in the name
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
        if value.get(name) is not None:
            given = value[name]
            variant = with_setting(variant, name, given if isinstance(given, float) else str(given))
    return variant


def _object(variant: Variant) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(str(variant.values()[CONFIG]))
    own = {LEARNING_RATE: variant.learning_rate, BASE: variant.base}
    first = {"peft_type": config.pop("peft_type")}
    return first | config | {name: value for name, value in own.items() if value is not None}
