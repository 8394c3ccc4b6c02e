"""The words of the page: each thing has one name, on every tab, in the card and in the report.

Many readers do not train models. The plain name comes first; the exact one follows it, or is shown
when the mouse rests on it. `tests/test_words.py` looks for the replaced words in everything shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """`name` is what the page says, `exact` what it means; `replaces` are words not to be shown.

    `replaces` holds regular expressions, tried without regard to case.
    """

    name: str
    exact: str
    replaces: tuple[str, ...]


TERMS = (
    Term(
        "trainable parameters",
        "the weights that a method trains; all others are frozen",
        (r"\btrained parameters", r"parameters that learn"),
    ),
    Term(
        "memory while training",
        "net peak: the highest memory in use while training, less that of the process before the "
        "model is loaded",
        (r"net peak memory", r"(?<!\()net peak\b(?!:)", r"peak memory, train"),
    ),
    Term(
        "memory needed",
        "peak reserved: the most that torch would reserve on the card, predicted by Plan",
        (r"reserved peak", r"\bpeak memory\b"),
    ),
    Term(
        "61 % less memory",
        "0.39x: the value of one method, divided by that of full fine-tuning",
        (r"x the (net |memory|training)",),
    ),
    Term(
        "a fair comparison",
        "the same data, model and settings: every condition that could change a number is equal, "
        "but for the method",
        (r"like for like", r"fields equal"),
    ),
    Term(
        "no other method was better in both",
        "the Pareto front: the methods that none beats in one measure without losing in the other",
        (r"(is|are) the front\b", r"\bbeaten\b", r"\bbeats\b"),
    ),
    Term(
        "test examples",
        "held-out examples: those that no run trains on, and no learning rate was tuned on",
        (r"held[- ]out (example|loss|prompt|question)",),
    ),
    Term(
        "how far repeats differ is not known",
        "one run for each variant: its seed gives no standard deviation",
        (r"no spread", r"seeds overlap"),
    ),
    Term(
        "loss, lower is better",
        "cross-entropy of the completion, in nats for each token",
        (r"(less|more) is better", r"[\d.}] nats a token", r"nats a token[ ,]*(mean|$\()"),
    ),
    Term(
        "begins very differently from the base",
        "KL divergence of the first token's distribution from the base's, in nats",
        (r"^KL $", r"\bKL [\d.]+ nats"),
    ),
    Term(
        "first word changed",
        "the likeliest first token (top-1) is another than the base's",
        (r"top-1 (changed|same)",),
    ),
    Term(
        "file to deliver",
        "the weights that somebody needs, beside the base model, to use the result",
        (r"\bto ship\b", r"(must|has to) be shipped"),
    ),
    Term(
        "the computer was busy",
        "other processes used part of the cores during training, so times are too long",
        (r"\bdisturbed\b",),
    ),
)
"""The terms in the order in which somebody new meets them."""
