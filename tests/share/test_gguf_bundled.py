"""The bundled model as GGUF answers as it does here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.models.bundled import bundled_folder, ensure_bundled
from ftlab.share.gguf_export import model_contents, write_gguf
from tests.llama_cpp import LlamaCpp, needs_llama_cpp

pytestmark = [pytest.mark.model, pytest.mark.slow]


@needs_llama_cpp
def test_llama_cpp_answers_as_transformers_does(tmp_path: Path) -> None:
    ensure_bundled()
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
