"""What llama.cpp itself makes of a GGUF file, in a process of its own.

The wheel `xllamacpp` holds llama.cpp as built by its maintainers; llama-cpp-python comes as source
alone. In another process, because a file that llama.cpp does not take may end it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or find_library("gomp") is None,
    reason="llama.cpp needs its wheel xllamacpp (requirements-dev.txt) and libgomp "
    "(Debian: apt-get install libgomp1)",
)

_SCRIPT = """
import json, sys, urllib.request
import xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = asked["file"]
params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.fit_params = False
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
if asked["adapter"]:
    added = xllamacpp.CommonAdapterLoraInfo()
    added.path, added.scale = asked["adapter"], 1.0
    params.lora_adapters = [added]
server = xllamacpp.Server(params)
answers = []
for body in asked["bodies"]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + asked["path"], data)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        answers.append(json.load(answer))
print("ANSWERS" + json.dumps(answers))
"""


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp with a model's file, and a LoRA beside it if `adapter` names one."""

    file: Path
    adapter: Path | None = None

    def log_probabilities(self, ids: list[int], tokens: int, said: int = 80) -> list[float]:
        """Of each of the `tokens` of the vocabulary to follow the ids, in nats.

        `said` is the token that llama.cpp is made to answer: it reports none of part of a letter.
        """
        body = {
            "prompt": ids,
            "n_predict": 1,
            "n_probs": tokens,
            "temperature": 0,
            "logit_bias": [[said, 1e4]],
        }
        (answer,) = self._ask("/completion", body)
        rows = answer["completion_probabilities"][0]["top_logprobs"]
        found = {row["id"]: row["logprob"] for row in rows}
        return [found[i] for i in range(tokens)]

    def tokens(self, *texts: str) -> list[list[int]]:
        """The ids of each text, as llama.cpp sets them around it by the file's own flags."""
        bodies = [{"content": text, "add_special": True} for text in texts]
        return [answer["tokens"] for answer in self._ask("/tokenize", *bodies)]

    def chat(self, prompt: str, most: int = 16) -> str:
        """The greedy answer to one prompt, in the file's own chat template."""
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": most,
            "temperature": 0,
        }
        (answer,) = self._ask("/v1/chat/completions", body)
        return str(answer["choices"][0]["message"]["content"])

    def _ask(self, path: str, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
        asked = {
            "file": str(self.file),
            "adapter": str(self.adapter or ""),
            "path": path,
            "bodies": bodies,
        }
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            input=json.dumps(asked), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            if line.startswith("ANSWERS"):
                return list(json.loads(line.removeprefix("ANSWERS")))
        raise AssertionError(f"llama.cpp ended with {done.returncode}: {done.stderr[-3000:]}")
