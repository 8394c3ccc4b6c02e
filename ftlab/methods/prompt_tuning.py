"""Prompt tuning: a few soft tokens learnt and put before the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, Value

if TYPE_CHECKING:
    from peft import PeftConfig


def _prompt_tuning_config(values: Mapping[str, Value]) -> PeftConfig:
    from peft import PromptTuningConfig

    return PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=int(values["tokens"]),
        # Lester et al. 2021, figure 3b: starting from words of the vocabulary beats random numbers.
        prompt_tuning_init="SAMPLE_VOCAB",
    )


PROMPT_TUNING = MethodSpec(
    id="prompt_tuning",
    label="Prompt tuning",
    short_label="Prompt",
    family="prompt",
    summary="Learns a few vectors that stand before the question; no weight changes.",
    paper=Paper(
        "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning",
        "https://arxiv.org/abs/2104.08691",
    ),
    look=Look(colour="#d7602a", marker="triangle-up", dash="dot"),
    learning_rate=3e-2,
    hyperparameters=(
        Hyperparameter(
            "tokens", "Soft tokens", "int", 20, "Learnt vectors put before the question.", 1, 200
        ),
    ),
    peft_config=_prompt_tuning_config,
)
