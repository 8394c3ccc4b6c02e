"""Loads saved results in a new process, with transformers and PEFT only.

Run as: python -m ftlab.training.probe_reload FOLDER

The folder contains `requests.json`, a list of `Request`s. It prints one JSON object: `Reloaded` by
method id. ftlab's own code does only two things: it loads weights that are not in PEFT's format,
and makes a 4-bit base compute in the requested precision.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ftlab.basics.errors import one_line

REQUESTS, EXPECTED = "requests.json", "expected.safetensors"


@dataclass(frozen=True)
class Request:
    """A saved result; `kind` is "adapter", "model" or "weights".

    `quantization` is that of the base's config, or `None`. `folder` contains the result in `saved`,
    and the file `EXPECTED` with the tensors `input_ids`, `logits`, `prompts` and `answers`."""

    id: str
    kind: str
    base: str
    folder: str
    quantization: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reloaded:
    """The largest `difference` of a logit, and whether `generate` returns the `same_answers`.

    `error` is the reason if both are missing, `answer_error` if only the answers are missing.
    """

    difference: float | None = None
    same_answers: bool | None = None
    error: str = ""
    answer_error: str = ""


def reload(request: Request) -> Reloaded:
    """Loads one result and compares its outputs with the saved ones. Never raises."""
    try:
        model = _load(request).eval()
        expected = load_file(Path(request.folder) / EXPECTED)
        ids = expected["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, -ids.shape[1] :]
        difference = float((logits - expected["logits"]).abs().max())
    except Exception as error:
        return Reloaded(error=one_line(error))
    try:
        prompts, answers = expected["prompts"], expected["answers"]
        output = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=answers.shape[1],
            do_sample=False,
        )[:, prompts.shape[1] :]
    except Exception as error:
        return Reloaded(difference, answer_error=one_line(error))
    same = torch.equal(output, answers[:, : output.shape[1]])
    return Reloaded(difference, same)


def _load(request: Request) -> Any:
    saved = Path(request.folder) / "saved"
    options: dict[str, Any] = {"dtype": torch.float32}
    if request.quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig.from_dict(request.quantization)
    where = saved if request.kind == "model" else request.base
    model = AutoModelForCausalLM.from_pretrained(where, **options)
    if request.quantization is not None:
        from ftlab.models.packed import forbid_repacking

        forbid_repacking(model)  # repacked 4-bit weights are multiplied in bf16, not in fp32
    if request.kind == "adapter":
        return PeftModel.from_pretrained(model, str(saved))
    if request.kind == "weights":
        from ftlab.models.loading import put_trained_weights

        put_trained_weights(model, saved)
    return model


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    requests = json.loads((folder / REQUESTS).read_text(encoding="utf-8"))
    print(json.dumps({item["id"]: asdict(reload(Request(**item))) for item in requests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
