"""The bundled model as GGUF, held against the GGUF file that it was read from, and asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.models.bundled import bundled_folder, ensure_bundled
from ftlab.models.reference import BUNDLED_ID
from ftlab.share.gguf_export import Contents, Planned, model_contents, write_gguf
from ftlab.share.model_card import LICENCES
from tests.llama_cpp import LlamaCpp, needs_llama_cpp

pytestmark = pytest.mark.model

PUBLISHED = Path(__file__).with_name("smollm2_135m_instruct_gguf.json")
OF_ITS_TYPE = {"GGUF.kv_count", "general.file_type", "general.name"}
"""What differs with the type of the weights, with the number of keys, and with the run."""


@pytest.fixture(scope="module")
def contents() -> Contents:
    ensure_bundled()
    return model_contents(bundled_folder(), "bf16", "SmolLM2-135M-Instruct", LICENCES[BUNDLED_ID])


def sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def keys_of(file: Path) -> dict[str, Any]:
    """The keys of a GGUF file; of a list its length and its SHA-256."""
    found = {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    return {
        key: _summary(value) if isinstance(value, list) else value for key, value in found.items()
    }


def _summary(values: list[Any]) -> list[Any]:
    return [len(values), sha256([json.dumps(values).encode()])]


def weights_of(tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """One SHA-256 over all names and values, these rounded to bf16 as the bundled model's are."""
    rounded = (
        part
        for name, values in sorted(tensors, key=lambda pair: pair[0])
        for part in (name.encode(), gguf.quantize(values, gguf.GGMLQuantizationType.BF16).tobytes())
    )
    return sha256(rounded)


def test_all_keys_that_both_have_and_all_weights_are_those_of_the_published_file(
    contents: Contents, tmp_path: Path
) -> None:
    file = tmp_path / "bundled.gguf"
    write_gguf(contents, file, replace=False)
    found, published = keys_of(file), json.loads(PUBLISHED.read_text())
    both = (set(found) & set(published["keys"])) - OF_ITS_TYPE
    assert {key: found[key] for key in both} == {key: published["keys"][key] for key in both}
    assert set(published["keys"]) - set(found) == {
        "general.basename", "general.finetune", "general.languages",
        "general.organization",
    }  # fmt: skip
    assert set(found) - set(published["keys"]) == {
        "llama.attention.key_length", "llama.attention.value_length",
        "tokenizer.ggml.add_eos_token",
    }  # fmt: skip

    def made(tensor: Planned) -> tuple[str, np.ndarray]:
        return tensor.name, tensor.make()

    assert weights_of(map(made, contents.tensors)) == published["weights"]


@needs_llama_cpp
def test_llama_cpp_answers_as_transformers_does(contents: Contents, tmp_path: Path) -> None:
    file = tmp_path / "bundled.gguf"
    write_gguf(model_contents(bundled_folder(), "f16", "SmolLM2"), file, replace=False)
    model = AutoModelForCausalLM.from_pretrained(bundled_folder(), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(bundled_folder())
    question = "What is the capital of France?"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
    ids = prompt["input_ids"][0]
    wanted = tokenizer.decode(answer[len(ids) :], skip_special_tokens=True)
    assert LlamaCpp(file).chat(question, most=16) == wanted == "The capital of France is Paris."
    with torch.inference_mode():
        logits = model(ids[None]).logits[0, -1].log_softmax(-1)
    found = torch.tensor(LlamaCpp(file).log_probabilities(ids.tolist(), len(logits), said=19))
    torch.testing.assert_close(found, logits, atol=0.05, rtol=0)
    texts = ["SELECT a FROM t WHERE b = 1234;", "naïve 🦊\n\nthe end", "<|im_start|>user"]
    assert LlamaCpp(file).tokens(*texts) == [tokenizer(text)["input_ids"] for text in texts]
