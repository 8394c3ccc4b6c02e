"""Prompt methods: they train vectors that are prepended to the question; no weight changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftlab.methods.dimensions import ModelShape
from ftlab.methods.rates import unscaled
from ftlab.methods.spec import (
    Hyperparameter,
    Look,
    MethodSpec,
    PeftTraits,
    RunPlan,
    Values,
    arxiv,
    peft_config,
    whole,
)

if TYPE_CHECKING:
    from peft import PeftConfig

_STARTS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM", "text": "TEXT"}
TOKENS = Hyperparameter(
    "tokens", "Soft tokens", "int", 20, "Number of trained vectors before the prompt.", 1, 200
)
_START = Hyperparameter(
    "start", "Start", "choice", "vocabulary",
    "Initial values of the vectors: words of the vocabulary, random numbers, or the text.",
    choices=tuple(_STARTS),
)  # fmt: skip
_TEXT = Hyperparameter(
    "text", "Text", "text",
    "Read the task below and answer with nothing but what it asks for in the form it asks for",
    "The words that initialise the vectors if the start is text.", 1, 500,
)  # fmt: skip


def _prompt_tuning_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import PromptTuningConfig

    # Lester et al. 2021, figure 3b: initialising from vocabulary words beats random numbers.
    start = str(values["start"])
    of_text: dict[str, Any] = {
        "prompt_tuning_init_text": str(values["text"]),
        "tokenizer_name_or_path": plan.tokenizer,
    }
    return PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=int(values["tokens"]),
        prompt_tuning_init=_STARTS[start],
        **(of_text if start == "text" else {}),
    )


def _count_prompt(shape: ModelShape, values: Values) -> int:
    """tokens · hidden (Lester et al. 2021, section 2; `PromptEmbedding`)."""
    return int(values["tokens"]) * shape.hidden


def _count_p_tuning(shape: ModelShape, values: Values) -> int:
    """The input vectors and the network with three layers that encodes them (`PromptEncoder`).

    tokens · h + (hH + H) + (H² + H) + (Hh + h), with h the model's hidden size and H the network's.
    All of these are trained; only the tokens · h output vectors are saved.
    """
    width, inner = shape.hidden, int(values["hidden"])
    network = width * inner + inner + inner * inner + inner + inner * width + width
    return int(values["tokens"]) * width + network


def _count_prefix(shape: ModelShape, values: Values) -> int:
    """tokens · layers · 2 · key width (Li & Liang 2021, section 4.2; `PrefixEncoder`)."""
    return int(values["tokens"]) * shape.layers * 2 * shape.key_width


PROMPT_TUNING = MethodSpec(
    id="prompt_tuning",
    label="Prompt tuning",
    short="Prompt",
    family="prompt",
    summary="Trains a few vectors before the prompt; no weight changes.",
    good_for=(
        "Many tasks on one large base: a file of kilobytes each, and requests of several tasks "
        "in one batch."
    ),
    weak_at=(
        "Small models and short runs: it learned slowly here, and each request carries its "
        "vectors as further tokens."
    ),
    paper=arxiv(
        "2104.08691", "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning"
    ),
    look=Look(colour="#d7602a", marker="triangle-up", dash="dot"),
    learning_rate=3e-2,
    not_sharded="",
    rate_rule=unscaled(
        "Lester et al. 2021, section 3: 0.3 for every T5, from Small (77M) to XXL (11B)",
        "https://arxiv.org/abs/2104.08691",
    ),
    hyperparameters=(TOKENS, _START, _TEXT),
    peft_config=_prompt_tuning_config,
    count=_count_prompt,
    size="tokens",
    soft_tokens=TOKENS.name,
    peft_traits=PeftTraits("PROMPT_TUNING"),
)

PROMPT_TUNING_TEXT = replace(
    PROMPT_TUNING,
    id="prompt_tuning_text",
    label="Prompt tuning from text",
    short="Prompt text",
    summary="Prompt tuning with vectors initialised from the words of an instruction.",
    good_for=(
        "Prompt tuning where an instruction in words helps already: the vectors start from it."
    ),
    weak_at="Tasks that no short instruction describes; and it learns as slowly as prompt tuning.",
    look=Look(colour="#985e0d", marker="triangle-up-open", dash="dash"),
    hyperparameters=(TOKENS, replace(_START, default="text"), _TEXT),
)

P_TUNING = MethodSpec(
    id="p_tuning",
    label="P-tuning",
    family="prompt",
    summary="Prompt tuning with vectors computed by a small network that is trained too.",
    good_for="Prompt tuning that depends less on where the vectors start: a network computes them.",
    weak_at="Short runs of small models: it had the lowest score of 20 methods here.",
    paper=arxiv("2103.10385", "Liu et al. 2021, GPT Understands, Too"),
    look=Look(colour="#f81f42", marker="pentagon", dash="dot"),
    not_sharded="",
    learning_rate=3e-3,
    hyperparameters=(
        TOKENS,
        Hyperparameter("hidden", "Hidden size", "int", 128, "Width of the small network.", 1, 8192),
    ),
    peft_config=peft_config(
        "PromptEncoderConfig",
        num_virtual_tokens=whole("tokens"),
        encoder_hidden_size=whole("hidden"),
    ),
    count=_count_p_tuning,
    size="hidden",
    soft_tokens=TOKENS.name,
    peft_traits=PeftTraits("P_TUNING"),
)

PREFIX_TUNING = MethodSpec(
    id="prefix_tuning",
    label="Prefix tuning",
    short="Prefix",
    family="prompt",
    summary="Trains keys and values that every layer attends to before the prompt.",
    good_for="Soft prompts with more capacity: every layer attends to its own.",
    weak_at=(
        "Keeping what the model knew: it forgot the most of 20 methods, here and in PEFT's "
        "published table; and it rules out gradient checkpointing."
    ),
    paper=arxiv(
        "2101.00190", "Li & Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation"
    ),
    look=Look(colour="#ab8b07", marker="diamond-open", dash="dashdot"),
    not_sharded="",
    learning_rate=9e-2,
    hyperparameters=(TOKENS,),
    peft_config=peft_config("PrefixTuningConfig", num_virtual_tokens=whole("tokens")),
    count=_count_prefix,
    size="tokens",
    soft_tokens=TOKENS.name,
    peft_traits=PeftTraits("PREFIX_TUNING"),
)

METHODS = (PROMPT_TUNING, PROMPT_TUNING_TEXT, P_TUNING, PREFIX_TUNING)
