"""The savings that papers are quoted for, recomputed from shapes alone.

Each number is arithmetic on sizes that the papers give; none is taken from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftlab import units
from ftlab.methods.variant import Variant
from ftlab.models.catalogue import known_model
from ftlab.prediction.question import Question, Step
from ftlab.prediction.questions import ask_about

_GPT3_LAYERS, _GPT3_WIDTH, _GPT3_VOCABULARY, _GPT3_POSITIONS = 96, 12_288, 50_257, 2_048
_T5_XXL_WIDTH = 4_096
_LLAMA_65B = 65_285_660_672


@dataclass(frozen=True)
class Claim:
    """What a paper says, what its shapes give, and why the two differ where they do."""

    what: str
    paper: str
    ours: str
    why: str
    source: str
    url: str


def gpt3_parameters() -> int:
    """12 L d² + 13 L d for the blocks, and the embeddings (Brown et al. 2020, table 2.1)."""
    width, layers = _GPT3_WIDTH, _GPT3_LAYERS
    blocks = layers * (12 * width * width + 13 * width)
    return blocks + (_GPT3_VOCABULARY + _GPT3_POSITIONS) * width + 2 * width


def lora_on_gpt3(rank: int = 4) -> int:
    """r (d + d) for query and value of each block (Hu et al. 2021, section 4.2)."""
    return _GPT3_LAYERS * 2 * rank * 2 * _GPT3_WIDTH


def full_training_bytes(parameters: int) -> int:
    """Weights and gradients in 16 bits, and Adam's two moments in 32: 12 bytes a parameter."""
    return parameters * (2 + 2 + 4 + 4)


def qlora_on_65b() -> Question:
    """One step of QLoRA as its paper trained the 65B model: rank 64 on all layers, a row of 512
    tokens, checkpointing and paged AdamW (Dettmers et al. 2023, appendix B.2)."""
    model = known_model("LLaMA 65B")
    assert model is not None
    step = Step(512, batch=1, checkpointing=True, optimizer="paged_adamw_8bit")
    variant = Variant("qlora", {"r": 64, "alpha": 16})
    return ask_about(model.config, [variant], step)[0]


def claims(qlora_65b_bytes: int | None = None) -> tuple[Claim, ...]:
    """`qlora_65b_bytes` is the predicted reserved peak of QLoRA on a 65B model, where known."""
    full, lora = gpt3_parameters(), lora_on_gpt3()
    return (
        Claim(
            "GPT-3 175B, LoRA of rank 4 on query and value: parameters trained",
            "10,000 times fewer",
            f"{full / lora:,.0f} times fewer",
            f"{units.format_count(lora)} of {units.format_count(full)}; the paper rounds.",
            "Hu et al. 2021",
            "https://arxiv.org/abs/2106.09685",
        ),
        Claim(
            "Its checkpoint",
            "35 MB",
            units.format_bytes(2 * lora),
            "In 16 bits; 36 MiB, so the paper counts in powers of two.",
            "Hu et al. 2021",
            "https://arxiv.org/abs/2106.09685",
        ),
        Claim(
            "The whole model's checkpoint",
            "350 GB",
            units.format_bytes(2 * full),
            "In 16 bits; the paper takes 175 G parameters, their shapes give a little less.",
            "Hu et al. 2021",
            "https://arxiv.org/abs/2106.09685",
        ),
        Claim(
            "LLaMA 65B, full fine-tuning in 16 bits",
            "over 780 GB",
            units.format_bytes(full_training_bytes(_LLAMA_65B)),
            "12 bytes a parameter, before any activation.",
            "Dettmers et al. 2023",
            "https://arxiv.org/abs/2305.14314",
        ),
        Claim(
            "LLaMA 65B, QLoRA",
            "under 48 GB",
            units.format_bytes(qlora_65b_bytes),
            "Simulated: rank 64 on all layers, 1 x 512 tokens, checkpointing, paged AdamW.",
            "Dettmers et al. 2023",
            "https://arxiv.org/abs/2305.14314",
        ),
        Claim(
            "T5-XXL, a prompt of five tokens: parameters trained",
            "20,480",
            f"{5 * _T5_XXL_WIDTH:,}",
            f"Five vectors of {_T5_XXL_WIDTH:,} numbers.",
            "Lester et al. 2021",
            "https://arxiv.org/abs/2104.08691",
        ),
    )
