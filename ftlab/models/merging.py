"""Merges trained weights into their base model, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel

from ftlab.basics.errors import FtlabError, one_line
from ftlab.models.loading import WEIGHTS, put_trained_weights


def merge_into(base: PreTrainedModel, folder: Path, label: str) -> PreTrainedModel:
    """Returns the unquantised base, in fp32 from now on, with the weights of the folder merged.

    The folder has an adapter or `trained_weights.safetensors`; `label` names the method in errors.
    The base is changed in place. Sums are taken in fp32: for a 16-bit base PEFT would round the
    change to 16 bits and add it in 16 bits. Raises `FtlabError` if it cannot be merged.
    """
    model: Any = base
    model.float()
    if (folder / WEIGHTS).is_file():
        put_trained_weights(base, folder)
        return base
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        return cast(PreTrainedModel, adapted.eval().merge_and_unload(safe_merge=True))
    except (ValueError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise FtlabError(
            f"{label} cannot be merged into {base.name_or_path}: {one_line(error)[:200]}; use its "
            "adapter as it is."
        ) from error
