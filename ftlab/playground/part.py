"""Runs that trained some of the model's own weights: those in place of the base's, in a clone."""

from __future__ import annotations

import traceback
from pathlib import Path

from transformers import PreTrainedModel

from ftlab.errors import FtlabError, one_line
from ftlab.models.trained_weights import FACTS, WEIGHTS, put_trained_weights
from ftlab.playground.panes import PaneSource
from ftlab.playground.wearing import Worn, clone_on_same_weights, is_quantised, sha256_of


def put_part(base: PreTrainedModel, source: PaneSource) -> Worn:
    """A clone that shares all weights with the base but those of the source.

    Raises `FtlabError` if they are missing, damaged or made for another shape, and on a base in 4
    bits: they are whole numbers of 16 bits that learnt beside others of 16.
    """
    folder = _complete(source)
    if is_quantised(base):
        raise FtlabError(
            f"'{source.label}' has weights of its own in 16 bits, which cannot stand in a base "
            "held in 4; answer in 16 or 32 bits, or leave it out."
        )
    clone = clone_on_same_weights(base)
    try:
        put_trained_weights(clone, folder)
    except (FtlabError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        raise FtlabError(
            f"The weights of '{source.label}' cannot be read: they are damaged "
            f"({one_line(error)[:160]}); run it again, or choose another."
        ) from error
    return Worn(None, clone.eval().requires_grad_(False), sha256_of([folder / WEIGHTS]))


def _complete(source: PaneSource) -> Path:
    folder = source.folder
    assert folder is not None
    for name in (FACTS, WEIGHTS):
        if not (folder / name).is_file():
            raise FtlabError(
                f"The weights of '{source.label}' are not there: {name} is missing; "
                "run it again, or choose another."
            )
    return folder
