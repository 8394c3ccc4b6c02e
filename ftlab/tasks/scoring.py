"""Task metrics that compare an answer's text with the reference: chrF, ROUGE-L, exact match."""

from __future__ import annotations

from functools import cache
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import unknown_name
from ftlab.tasks.spec import Example, TaskMetric


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def chrf(example: Example, answer: str) -> float:
    """Sentence chrF (Popović 2015; sacrebleu's defaults: characters up to 6, beta 2), over 100."""
    return float(_chrf().sentence_score(answer.strip(), [example.completion]).score) / 100


def rouge_l(example: Example, answer: str) -> float:
    """ROUGE-L F1 (Lin 2004; rouge-score without stemming): the longest common word sequence."""
    return float(_rouge().score(example.completion, answer)["rougeL"].fmeasure)


def exact_match(example: Example, answer: str) -> float:
    """1.0 if the answer equals the reference, ignoring differences in white space, else 0.0."""
    return float(answer.split() == example.completion.split())


def _describe_exact_match(example: Example, answer: str) -> str:
    return "equal" if exact_match(example, answer) else "differs"


CHRF = TaskMetric(
    key="chrf",
    label="chrF",
    how="Sentence chrF by sacrebleu (character n-grams up to 6, beta 2), from 0 to 1, averaged.",
    score=chrf,
)
ROUGE_L = TaskMetric(
    key="rouge_l",
    label="ROUGE-L",
    how="ROUGE-L F1 by rouge-score (longest common word sequence, no stemming), averaged.",
    score=rouge_l,
)
EXACT_MATCH = TaskMetric(
    key="exact_match",
    label="Exact match",
    how="Share of answers that are the reference word for word, white space aside.",
    score=exact_match,
    describe=_describe_exact_match,
)

TEXT_METRICS: dict[str, TaskMetric] = {m.key: m for m in (CHRF, EXACT_MATCH, ROUGE_L)}
"""The metrics that need only text; available for files and Hub data sets."""


def get_text_metric(key: str | None) -> TaskMetric:
    """The metric with that key, chrF for None; `FtlabError` with all keys for an unknown one."""
    if key is None:
        return CHRF
    if key not in TEXT_METRICS:
        raise FtlabError(unknown_name("metric", key, TEXT_METRICS))
    return TEXT_METRICS[key]
