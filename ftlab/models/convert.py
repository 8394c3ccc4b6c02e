"""Turns the bundled GGUF file into a plain safetensors model with tokenizer and chat template.

Run as: python -m ftlab.models.convert FILE.gguf TARGET_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from ftlab.models.reference import BUNDLED_ID


def convert(source: Path, target: Path) -> None:
    """Writes bf16 weights, config, tokenizer and chat template to the target folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.config._name_or_path = BUNDLED_ID
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
