"""Answers questions in a process of its own, until nobody asks any more.

Run as: python -m ftlab.prediction.worker < QUESTIONS

Each line on stdin is a question as `question.dump_question` writes it, each line on stdout its
answer. Simulating patches torch in places and sets its default dtype, so nothing else may run here.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any
from unittest.mock import patch

from ftlab.prediction.question import dump_prediction, load_question
from ftlab.runs.spawn import lasting_imports, prepare_for_libraries


def main() -> int:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print as they like
    if hasattr(os, "nice"):
        os.nice(19)  # a run that is timed on the same cores goes first
    prepare_for_libraries("cpu")
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    with lasting_imports():
        import torch

        with patch.object(torch, "compile", _as_it_is):
            from ftlab.prediction.simulation.predict import predict
    torch.set_num_threads(1)
    with answers:
        for line in sys.stdin.buffer:
            answers.write(dump_prediction(predict(load_question(line))) + b"\n")
            answers.flush()
    return 0


def _as_it_is(function: Any = None, **options: Any) -> Any:
    """In place of `torch.compile`, which takes half a second for four kernels of bitsandbytes' as
    that is imported; none of them ever runs here."""
    return (lambda later: later) if function is None else function


if __name__ == "__main__":
    sys.exit(main())
