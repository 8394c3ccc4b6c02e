"""The command with which vLLM serves a run. No torch.

The options are those that docs.vllm.ai documents for `vllm serve` (engine arguments, LoRA).
What vLLM takes of an adapter is what its `vllm/lora/peft_helper.py` reads and refuses: it reads r,
lora_alpha and use_rslora, so ranks or alphas of single layers would be scaled wrongly.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.methods.peft_rules import BASE_CHANGING_INITS
from ftlab.records.merge import MergeDirectory
from ftlab.records.store import Run
from ftlab.share.merge_control import why_not_mergeable
from ftlab.share.weights import adapter_config, kind_of, public_model, weights_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank` that all recent releases take."""

_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases of its own",
    "trainable_token_indices": "trained rows of the embeddings",
    "target_parameters": "adapters on single parameters",
    "rank_pattern": "different ranks",
    "alpha_pattern": "different alphas",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "invocation tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal matrices (BD-LoRA)",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "arrow_config": "Arrow",
}
"""Keys of a LoRA's configuration that vLLM does not apply, with what they mean for the adapter."""


def vllm_command(run: Run) -> str:
    """The command, for a shell. A run that vLLM cannot take as an adapter is served merged.

    Raises `FtlabError` if it has no weights, or has to be merged first.
    """
    folder = weights_of(run)
    name = run.run_id
    kind = kind_of(folder)
    if kind == "model":
        return _line("vllm", "serve", str(folder.resolve()), "--served-model-name", name)
    config = adapter_config(folder) if kind == "adapter" else {}
    reason = why_not_on_vllm(config)
    if reason:
        return _merged(run, reason)
    model = run.spec.model
    base = model if model.startswith("/") else public_model(model)
    rank = next(rank for rank in RANKS if rank >= int(config["r"]))
    quantised = ("--quantization", "bitsandbytes") if run.spec.base_precision == "nf4" else ()
    return _line(
        "vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(rank),
        "--lora-modules", f"{name}={folder.resolve()}", *quantised,
    )  # fmt: skip


def why_not_on_vllm(config: Mapping[str, Any]) -> str:
    """Why vLLM does not take an adapter with this configuration, as a clause; "" if it does.

    An empty configuration is that of weights that are no adapter.
    """
    if not config:
        return "its weights are no adapter"
    if config.get("peft_type") != "LORA":
        return f"it is {config.get('peft_type')}"
    if str(config.get("bias") or "none") != "none":
        return "it has trained biases"
    for key, meaning in _REFUSED.items():
        if config.get(key):
            return f"it has {meaning}"
    if str(config.get("init_lora_weights")).lower().startswith(BASE_CHANGING_INITS):
        return "it is relative to changed base weights"
    rank = config.get("r")
    if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        return f"its rank is {rank}, and vLLM takes up to {RANKS[-1]}"
    return ""


def _merged(run: Run, reason: str) -> str:
    merge = MergeDirectory(run.directory)
    if merge.status() == "done" and (merge.target / "config.json").is_file():
        folder = str(merge.target.resolve())
        return _line("vllm", "serve", folder, "--served-model-name", run.run_id)
    why = f"vLLM takes plain LoRA alone as an adapter, and {run.spec.label} is not: {reason}"
    no_merge = why_not_mergeable(run)
    if no_merge:
        raise FtlabError(
            f"{why}; it cannot be merged either, so serve it here: python -m ftlab serve --runs "
            f"{run.run_id}."
        )
    raise FtlabError(
        f"{why}; merge it first (python -m ftlab merge {run.run_id}), and this command serves the "
        "merged model."
    )


def _line(*parts: str) -> str:
    return shlex.join(parts)
