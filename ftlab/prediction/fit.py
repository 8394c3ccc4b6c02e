"""Whether a step fits a card, which changes make it fit, and the claims of papers. No torch.

Our numbers for the claims are computed from the model sizes in the papers, not copied from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from ftlab.basics import units
from ftlab.basics.cards import Card
from ftlab.methods.limits import not_sharded
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import KnownModel, catalogue, known_model
from ftlab.prediction.duration import Band
from ftlab.prediction.question import Prediction, Question, Step, ask_about
from ftlab.settings.training import problems_of_parts

Verdict = Literal["fits", "tight", "does not fit"]

BAND = 0.05
"""Relative error of a predicted reserved peak; nearly all published runs are within it."""

MOST_CHANGES = 3
SHORTEST = 128

Ask = Callable[[Sequence[Question]], Iterator[tuple[int, Prediction]]]


@dataclass(frozen=True)
class Fit:
    """A verdict; `margin_bytes` is the memory left on the card, negative if it does not fit."""

    verdict: Verdict
    margin_bytes: int


@dataclass(frozen=True)
class Change:
    """A change that makes a step smaller, and the changed question."""

    label: str
    costs: str
    question: Question


def fit(peak_bytes: int, card: Card, band: float = BAND) -> Fit:
    """Whether a reserved peak fits; "tight" if it fits, but not with `band` added."""
    margin = card.usable_bytes - peak_bytes
    if margin < 0:
        return Fit("does not fit", margin)
    return Fit("fits" if peak_bytes * (1 + band) <= card.usable_bytes else "tight", margin)


def verdict(answer: Prediction, band: Band, card: Card) -> Verdict:
    """Whether a run fits into the card's memory, within the uncertainty given by the band.

    The band applies to training steps only. The prediction for scoring is used as it is.
    """
    reserved, scoring = answer.peak_reserved_bytes, answer.scoring_bytes
    assert reserved is not None
    needed = max(round(band.low * reserved), scoring or 0)
    return fit(needed, card, band.high / band.low - 1).verdict


CARDS: tuple[int, ...] = (2, 4, 8)
"""Numbers of like cards over which a run is offered to be divided, where they can be bought."""


def changes(question: Question) -> list[list[Change]]:
    """Returns the changes by kind, the least harmful kind first, each smaller than the last."""
    step = question.step
    found: list[list[Change]] = []
    if not step.checkpointing:
        smaller = replace(question, step=replace(step, checkpointing=True))
        costs = "about 1.3 times the time, the same result"
        found.append([Change("Gradient checkpointing", costs, smaller)])
    found.append(_smaller_batches(question))
    packed = _packed(question)
    if packed is not None:
        costs = "slower steps, nearly the same result"
        found.append([Change("Base in 4 bits", costs, packed)])
    found.append(_shorter(question))
    return [kind for kind in found if kind]


def over_cards(question: Question, counts: Iterable[int]) -> list[Change]:
    """Returns the question over more like cards; empty for what cannot be divided."""
    step, variant = question.step, question.variant
    return [
        Change(
            f"Over {count} cards",
            "the same result; needs so many like cards",
            replace(question, step=replace(step, shard=count)),
        )
        for count in counts
        if count > step.shard
        and not_sharded(variant, count) is None
        and not any(problems_of_parts(count, step.batch, step.optimizer))
    ]


def fitting(
    question: Question,
    card: Card,
    ask: Ask,
    most: int = MOST_CHANGES,
    counts: Sequence[int] = (),
) -> list[tuple[Change, Prediction]]:
    """Returns up to `most` changes that make the step fit: per kind, the first that is enough.

    If no single change is enough, they are combined one after another until the step fits. `counts`
    are the numbers of like cards over which it may be divided; that is offered beside the others,
    with gradient checkpointing where it is not enough alone.
    """
    kinds, wider = changes(question), over_cards(question, counts)
    over = _first_that_fits(wider, card, ask)
    each = (enough for kind in kinds if (enough := _first_that_fits(kind, card, ask)))
    found = list(islice(each, most if over is None else most - 1))
    if over is None and not found:
        if len(kinds) > 1:
            enough = _first_that_fits(_together(question, kinds), card, ask)
            found = [enough] if enough else []
        over = _first_that_fits(_with_checkpointing(wider), card, ask)
    return found if over is None else [*found, over]


def _with_checkpointing(tried: Sequence[Change]) -> list[Change]:
    return [
        replace(
            change,
            label=f"{change.label} with gradient checkpointing",
            question=replace(
                change.question, step=replace(change.question.step, checkpointing=True)
            ),
        )
        for change in tried
        if not change.question.step.checkpointing
    ]


def _first_that_fits(
    tried: Sequence[Change], card: Card, ask: Ask
) -> tuple[Change, Prediction] | None:
    for change in tried:
        for _, answer in ask([change.question]):
            peak = answer.peak_reserved_bytes
            if peak is not None and fit(peak, card).verdict != "does not fit":
                return change, answer
    return None


def _smaller_batches(question: Question) -> list[Change]:
    step, found = question.step, []
    batch = step.batch
    while batch % 2 == 0 and batch // 2 >= step.shard:
        batch //= 2
        times = step.batch // batch * step.accumulation
        smaller = replace(question, step=replace(step, batch=batch, accumulation=times))
        label = f"Batch {batch}, accumulated {times} times"
        found.append(Change(label, "the same result, somewhat slower", smaller))
    return found


def _shorter(question: Question) -> list[Change]:
    step, found = question.step, []
    length = step.length
    while length // 2 >= SHORTEST:
        length //= 2
        kept = step.completion_tokens
        shorter = replace(
            step, length=length, completion_tokens=None if kept is None else min(kept, length - 1)
        )
        label = f"At most {length:,} tokens"
        found.append(Change(label, "longer examples are left out", replace(question, step=shorter)))
    return found


def _together(question: Question, kinds: Sequence[Sequence[Change]]) -> list[Change]:
    """Combines the last change of each kind with the earlier kinds; tries all of the last kind."""
    made: list[Change] = []
    now, labels = question, list[str]()
    for kind in kinds:
        steps = kind if kind is kinds[-1] else kind[-1:]
        for change in steps:
            label = ", ".join([*labels, change.label]).capitalize()
            made.append(Change(label, change.costs, _on_top(now, change.question)))
        now = made[-1].question
        labels.append(steps[-1].label)
    return made[1:]


def _on_top(question: Question, changed: Question) -> Question:
    """Returns the question with the reductions of the changed question applied."""
    step, other = question.step, changed.step
    kept = step.completion_tokens
    return replace(
        question,
        variant=changed.variant if changed.variant.base else question.variant,
        step=replace(
            step,
            checkpointing=step.checkpointing or other.checkpointing,
            batch=min(step.batch, other.batch),
            accumulation=max(step.accumulation, other.accumulation),
            packing=step.packing or other.packing,
            length=min(step.length, other.length),
            completion_tokens=None if kept is None else min(kept, other.completion_tokens or kept),
        ),
    )


def _packed(question: Question) -> Question | None:
    """Returns the question on a 4-bit base; `None` for what is quantised, divided or no adapter."""
    variant = question.variant
    if not variant.spec.is_adapter or variant.base_precision is not None:
        return None
    if question.step.shard > 1:  # FSDP does not divide it rightly
        return None
    on_four_bits: Variant = replace(variant, base="nf4")
    return replace(
        question, variant=on_four_bits, step=replace(question.step, packing="nf4-double")
    )


_FAMILIES_APART = 0.1
"""Relative memory difference between models of one size, for example due to vocabulary size."""

_WEIGHT_BYTES = {"nf4": 0.5, "int8": 1.0}


@dataclass(frozen=True)
class Largest:
    """A model that fits, with its prediction."""

    model: KnownModel
    prediction: Prediction


def on_hub(models: Iterable[KnownModel] | None = None) -> list[KnownModel]:
    """Returns the models on the Hub, largest first; `None` means the models of the catalogue."""
    found = catalogue() if models is None else models
    return sorted((m for m in found if m.is_on_hub), key=lambda m: m.parameters, reverse=True)


def largest_that_fits(
    models: Sequence[KnownModel],
    question: Callable[[KnownModel], Question],
    ask: Ask,
    fits: Callable[[Prediction], bool],
    usable_bytes: int,
) -> Largest | None:
    """Returns the first model whose step is predicted to fit; `None` if none fits.

    The models must be sorted largest first. A model is skipped without a prediction if its weights
    alone do not fit, or if the bytes per parameter of a larger model would already be too much: a
    smaller model needs more bytes per parameter. Raises what `ask` raises.
    """
    per_parameter = 0.0
    for model in models:
        asked = question(model)
        least = max(_weight_bytes(asked), per_parameter) * model.parameters
        if least * (1 - _FAMILIES_APART) > usable_bytes:
            continue
        for _, answer in ask([asked]):
            if answer.peak_reserved_bytes is None:
                continue
            if fits(answer):
                return Largest(model, answer)
            per_parameter = answer.peak_reserved_bytes / model.parameters
    return None


def _weight_bytes(question: Question) -> float:
    variant: Variant = question.variant
    if variant.base_precision is not None:
        return _WEIGHT_BYTES[variant.base_precision]
    return 4.0 if question.step.weights == "fp32" else 2.0


_GPT3_LAYERS, _GPT3_WIDTH, _GPT3_VOCABULARY, _GPT3_POSITIONS = 96, 12_288, 50_257, 2_048
_T5_XXL_WIDTH = 4_096
_LLAMA_65B = 65_285_660_672

_LORA = ("Hu et al. 2021", "https://arxiv.org/abs/2106.09685")
_QLORA = ("Dettmers et al. 2023", "https://arxiv.org/abs/2305.14314")
_PROMPT = ("Lester et al. 2021", "https://arxiv.org/abs/2104.08691")


@dataclass(frozen=True)
class Claim:
    """A paper's number, ours from the model's shapes, and the reason for a difference."""

    what: str
    paper: str
    ours: str
    why: str
    source: str
    url: str


def gpt3_parameters() -> int:
    """Returns 12 L d² + 13 L d for the blocks, plus embeddings (Brown et al. 2020, table 2.1)."""
    width, layers = _GPT3_WIDTH, _GPT3_LAYERS
    blocks = layers * (12 * width * width + 13 * width)
    return blocks + (_GPT3_VOCABULARY + _GPT3_POSITIONS) * width + 2 * width


def lora_on_gpt3(rank: int = 4) -> int:
    """Returns r (d + d) for query and value of each block (Hu et al. 2021, section 4.2)."""
    return _GPT3_LAYERS * 2 * rank * 2 * _GPT3_WIDTH


def full_training_bytes(parameters: int) -> int:
    """Returns 12 bytes per parameter: 16-bit weights and gradients, Adam's two 32-bit moments."""
    return parameters * (2 + 2 + 4 + 4)


def qlora_on_65b() -> Question:
    """Returns one step of QLoRA on 65B as in its paper (Dettmers et al. 2023, appendix B.2)."""
    # Rank 64 on all layers, one row of 512 tokens, checkpointing and paged AdamW.
    model = known_model("LLaMA 65B")
    assert model is not None
    step = Step(512, batch=1, checkpointing=True, optimizer="paged_adamw_8bit")
    variant = Variant("qlora", {"r": 64, "alpha": 16})
    return ask_about(model.config, [variant], step)[0]


def claims(qlora_65b_bytes: int | None = None) -> tuple[Claim, ...]:
    """Returns the claims; `qlora_65b_bytes` is the predicted reserved peak of `qlora_on_65b`."""
    full, lora = gpt3_parameters(), lora_on_gpt3()
    return (
        Claim(
            "GPT-3 175B, LoRA of rank 4 on query and value: parameters trained",
            "10,000 times fewer",
            f"{full / lora:,.0f} times fewer",
            f"{units.format_count(lora)} of {units.format_count(full)}; the paper rounds.",
            *_LORA,
        ),
        Claim(
            "Its checkpoint", "35 MB", units.format_bytes(2 * lora),
            "In 16 bits; 36 MiB, so the paper counts in powers of two.", *_LORA,
        ),
        Claim(
            "The whole model's checkpoint", "350 GB", units.format_bytes(2 * full),
            "In 16 bits; the paper takes 175 G parameters, their shapes give a little less.",
            *_LORA,
        ),
        Claim(
            "LLaMA 65B, full fine-tuning in 16 bits", "over 780 GB",
            units.format_bytes(full_training_bytes(_LLAMA_65B)),
            "12 bytes a parameter, before any activation.", *_QLORA,
        ),
        Claim(
            "LLaMA 65B, QLoRA", "under 48 GB", units.format_bytes(qlora_65b_bytes),
            "Simulated: rank 64 on all layers, 1 x 512 tokens, checkpointing, paged AdamW.",
            *_QLORA,
        ),
        Claim(
            "T5-XXL, a prompt of five tokens: parameters trained", "20,480",
            f"{5 * _T5_XXL_WIDTH:,}", f"Five vectors of {_T5_XXL_WIDTH:,} numbers.", *_PROMPT,
        ),
    )  # fmt: skip
