"""A config.json as transformers reads it; what is no causal language model is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ftlab.errors import FtlabError, one_line
from ftlab.prediction.bounds import check_sizes
from ftlab.words import did_you_mean


def read_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """The config of a causal language model.

    Raises `FtlabError` for a model that needs code of its own, one that is already quantised, one
    larger than any published, one that transformers does not know, and one that is no causal
    language model.
    """
    check_sizes(config)
    if "auto_map" in config:
        raise FtlabError(
            "The model needs code of its own (auto_map in its config), which ftlab never runs; "
            "choose a model that transformers knows by itself."
        )
    if config.get("quantization_config"):
        raise FtlabError(
            "The config is that of a quantised checkpoint; give that of the model it was made "
            "from, and choose the precision of the base here."
        )
    kind = str(config.get("model_type") or "")
    if not kind:
        raise FtlabError(
            "The config names no model_type, so it is no transformers config.json; give the file "
            "as the model's repository has it."
        )
    if kind not in CONFIG_MAPPING:
        nearest = did_you_mean(kind, list(CONFIG_MAPPING))
        raise FtlabError(f"transformers has no model_type '{kind[:60]}'.{nearest}")
    try:
        made = CONFIG_MAPPING[kind].from_dict(dict(config))
    except Exception as error:  # a config class may refuse in any way
        raise FtlabError(
            f"The config of this {kind} model cannot be read: {one_line(error)[:200].rstrip('.')}."
        ) from error
    if type(made) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise FtlabError(
            f"A {kind} model is no causal language model; choose one that writes text from left "
            "to right."
        )
    return made
