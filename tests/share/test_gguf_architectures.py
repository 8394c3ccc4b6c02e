"""Each architecture that is written as GGUF gives its logits in llama.cpp itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names
from ftlab.share.gguf_architectures import ARCHITECTURES
from ftlab.share.gguf_export import model_contents, write_gguf
from ftlab.training.probe import byte_tokenizer
from tests.architectures import FAMILIES, config_of
from tests.llama_cpp import LlamaCpp, needs_llama_cpp
from tests.tiny import give_merges

IDS = list(range(5, 45))

_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
"""The original context is so short that some frequencies stay, some are divided, some between."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ARCHITECTURES},
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with an output of its own": ("llama", {"tie_word_embeddings": False}),
    "llama with Llama 3.1's positions": ("llama", {"rope_parameters": _LLAMA3}),
    "llama with positions in steps": (
        "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama with wide heads": ("llama", {"head_dim": 32}),
    "granite with biases": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "granite with Llama 3.1's positions": ("granite", {"rope_parameters": _LLAMA3}),
    "granite with scales": (
        "granite", {"logits_scaling": 4.0, "embedding_multiplier": 3.0,
                    "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    ),
    "qwen2 with a shared output": ("qwen2", {"tie_word_embeddings": True}),
}  # fmt: skip


def made(folder: Path, family: str, more: dict[str, Any]) -> Any:
    """A random model of four layers, as SmolLM3 leaves out the positions in every fourth."""
    torch.manual_seed(0)
    config = config_of(family, num_hidden_layers=4, **more)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    give_merges(folder)
    return model


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_the_same_logits(case: str, tmp_path: Path) -> None:
    family, more = CASES[case]
    model = made(tmp_path / "model", family, more)
    with torch.inference_mode():
        wanted = model(torch.tensor([IDS])).logits[0, -1].float().log_softmax(-1)
    file = tmp_path / "model.gguf"
    write_gguf(model_contents(tmp_path / "model", "f32", family), file, replace=False)
    found = torch.tensor(LlamaCpp(file).log_probabilities(IDS, 320))
    assert wanted.std() > 0.4
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        *((family, {"attention_bias": True}, "has biases") for family in ("qwen3", "olmo2")),
        ("smollm3", {"mlp_bias": True}, "has biases"),
        *(
            (family, {"rope_parameters": _LLAMA3}, "scales its positions by llama3")
            for family in ("qwen2", "qwen3", "olmo2", "smollm3")
        ),
        *((family, {"head_dim": 32}, "has heads of 32 values") for family in ("qwen2", "olmo2")),
        ("smollm3", {"no_rope_layers": [1, 0]}, "in other layers than every fourth"),
    ],
)
def test_what_llama_cpp_does_not_load_is_refused(
    family: str, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config_of(family, **more).save_pretrained(tmp_path)
    with pytest.raises(FtlabError, match=f"It .*{said}.*which llama.cpp's {family} does not, so"):
        model_contents(tmp_path, "f16", "It")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ARCHITECTURES)))
def test_every_other_architecture_is_refused_by_name(family: str, tmp_path: Path) -> None:
    config_of(family).save_pretrained(tmp_path)
    with pytest.raises(FtlabError, match=f"has the architecture {family}, which is not written"):
        model_contents(tmp_path, "f16", "It")


def test_the_guide_names_the_architectures_that_are_written() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    assert f"Architectures: {join_names(list(ARCHITECTURES))} with" in " ".join(guide.split())
