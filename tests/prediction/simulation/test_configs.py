"""What is a causal language model that transformers knows, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.prediction.simulation.fake import read_config

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2}


def test_a_config_is_read_by_its_own_class() -> None:
    assert type(read_config(LLAMA)).__name__ == "LlamaConfig"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "names no model_type"),
        ({"model_type": "lama"}, "no model_type 'lama'. Did you mean"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "vit"}, "no causal language model"),
        (LLAMA | {"auto_map": {"AutoModel": "x.py"}}, "code of its own"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantised checkpoint"),
        (LLAMA | {"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_a_sentence(
    config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence):
        read_config(config)
