"""The memory that answering held-out examples takes, after the steps of a run.

The prompts of a batch are read at once, and their keys and values kept for every token that
follows: on a small training batch that can be more than the training itself took.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PeftModel

from ftlab.models.generation import soft_outputs
from ftlab.models.loading import scales_of
from ftlab.prediction.question import Scoring, Step
from ftlab.prediction.simulation.allocations import AllocationLog
from ftlab.prediction.simulation.host import on_device
from ftlab.training.arithmetic import Arithmetic


def scoring_bytes(
    model: Any, scoring: Scoring, arithmetic: Arithmetic, log: AllocationLog, step: Step
) -> int:
    """Bytes that live at most, weights among them; in a fake mode, on a log that is new.

    The longest prompts are read for real. The end of the answers is computed from what was kept
    of them: a cache that has grown by the new tokens, and one layer's part of it twice, because it
    grows by copying.
    """
    log.name(scales_of(model), "weights")
    log.name(on_device(model, step.device), "weights")
    weights = log.living
    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    length = scoring.prompt + soft_outputs(model)
    model.eval()
    with torch.no_grad(), arithmetic.context(), log:
        ids = torch.zeros(scoring.rows, length, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[:1, :1] = 0  # nearly every batch is padded
        output = causal_lm(
            input_ids=ids, attention_mask=mask, use_cache=True, **_last_logits(causal_lm)
        )
        del ids, mask
    model.train()
    logits = output.logits.numel() * output.logits.element_size()
    kept = log.living - weights - logits
    grown = kept * (length + scoring.new_tokens) / length
    copied = grown / (2 * max(1, int(causal_lm.config.get_text_config().num_hidden_layers)))
    chosen = scoring.rows * int(output.logits.shape[-1]) * 4  # the last token's, in fp32
    return max(
        log.peak(rounding=step.device != "cpu").bytes, round(weights + grown + copied + chosen)
    )


def _last_logits(causal_lm: Any) -> dict[str, int]:
    """As `generate` asks for them, of models that take it."""
    known = "logits_to_keep" in inspect.signature(causal_lm.forward).parameters
    return {"logits_to_keep": 1} if known else {}
