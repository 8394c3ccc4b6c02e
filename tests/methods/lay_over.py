"""Puts a pattern into every field of every configuration of PEFT, and lays each over a tiny model.

A test runs it in a process of its own and names a file. It writes there, for each kind, field and
pattern, the seconds that it took (the largest of a text, a list and an object). A case is broken
off after `LIMIT_SECONDS`, which `re` can be (with --backtracking) and RE2 need not.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

EVIL = [".?" * 45 + "Z", "((.+)+)+Z"]
LIMIT_SECONDS = 3.0

_BESIDE = {
    "layers_pattern": {"layers_to_transform": [0]},
    "feedforward_modules": {"target_modules": "all-linear"},
}


class TooLong(BaseException):
    """Raised by the timer; nothing catches it by mistake."""


def lay_over(config_class: Any, field: str, pattern: str, model: Any) -> float:
    """The longest of the field's three forms, in seconds."""
    from peft import get_peft_model

    longest = 0.0
    names = {field.name for field in dataclasses.fields(config_class)}
    for value in (pattern, [pattern], {pattern: 2}):
        given: dict[str, Any] = {"task_type": "CAUSAL_LM"}
        if "target_modules" in names:
            given["target_modules"] = ["q_proj"]
        given |= _BESIDE.get(field, {}) | {field: value}
        body = copy.deepcopy(model, {id(model.config): model.config})  # the config is shared
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
        try:
            get_peft_model(body, config_class(**given))
        except TooLong:
            return LIMIT_SECONDS
        except Exception:
            pass  # a refusal is as good as a result
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        longest = max(longest, time.perf_counter() - began)
    return longest


def main(out: Path, backtracking: bool) -> None:
    from ftlab.methods.peft_rules import match_without_backtracking

    if not backtracking:
        match_without_backtracking()
    import torch
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import LlamaConfig, LlamaForCausalLM

    def too_long(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=32,
        )
    )  # fmt: skip
    gc.freeze()  # else each garbage collection visits all objects of the libraries
    found = [
        (str(kind.value), field.name, pattern, lay_over(config_class, field.name, pattern, model))
        for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        for field in dataclasses.fields(config_class)
        if field.name not in ("peft_type", "task_type")
        and {"str", "list", "dict", "Any", "Literal"} & _words(field.type)
        for pattern in EVIL
    ]
    out.write_text(json.dumps(found), encoding="utf-8")


def _words(annotation: Any) -> set[str]:
    text = annotation if isinstance(annotation, str) else str(annotation)
    for sign in "[]|,.'()<>":
        text = text.replace(sign, " ")
    return set(text.split())


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--backtracking" in sys.argv)
