"""Predictions that are kept on this machine: a question is simulated once, and takes seconds.

The page and the command `sweep` ask what the runs of a sweep ask again at their end. Only what was
simulated to the end is kept: anything else may have failed for a passing reason.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.kept_files import hash_of_code, kept_folder, read_kept, write_kept
from ftlab.models.libraries import installed_versions
from ftlab.prediction.question import (
    Prediction,
    Question,
    dump_prediction,
    dump_question,
    load_prediction,
)

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
_CODE = ("methods", "models", "prediction", "settings", "training")
_MOST_KEPT = 2_000  # of about 2 kB


def kept_prediction(question: Question) -> Prediction | None:
    """Returns the prediction that was kept for an equal question; `None` if there is none."""
    try:
        return load_prediction(read_kept(_file(question)))
    except (OSError, ValueError, FtlabError):
        return None


def keep_prediction(question: Question, prediction: Prediction) -> None:
    """Keeps a simulated prediction; does nothing if the folder cannot be written."""
    if prediction.how == "simulated":
        write_kept(_file(question), dump_prediction(prediction), _MOST_KEPT)


def _file(question: Question) -> Path:
    key = hashlib.sha256(_surroundings() + dump_question(question)).hexdigest()
    return kept_folder("predictions") / f"{key[:40]}.json"


@cache
def _surroundings() -> bytes:
    """What a prediction depends on beside its question."""
    packages = installed_versions(_PACKAGES)
    return json.dumps([platform.python_version(), packages, hash_of_code(*_CODE)]).encode()
