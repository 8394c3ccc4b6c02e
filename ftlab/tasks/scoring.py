"""Task metrics that compare an answer's text with the reference: chrF, ROUGE-L, exact match."""

from __future__ import annotations

from collections.abc import Sequence

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import unknown_name
from ftlab.tasks.spec import Example, TaskMetric


def chrf_scores(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
    """Sentence chrF (Popović 2015; sacrebleu's defaults: characters up to 6, beta 2), over 100."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    return [
        chrf.sentence_score(answer.strip(), [example.completion]).score / 100
        for example, answer in zip(examples, answers, strict=True)
    ]


def rouge_l_scores(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
    """ROUGE-L F1 (Lin 2004; rouge-score without stemming): the longest common word sequence."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        float(scorer.score(example.completion, answer)["rougeL"].fmeasure)
        for example, answer in zip(examples, answers, strict=True)
    ]


def exact_match_scores(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
    """1.0 if the answer equals the reference, ignoring differences in white space, else 0.0."""
    return [
        float(answer.split() == example.completion.split())
        for example, answer in zip(examples, answers, strict=True)
    ]


def _describe_exact_match(example: Example, answer: str) -> str:
    return "equal" if exact_match_scores([example], [answer])[0] else "differs"


CHRF = TaskMetric(
    key="chrf",
    label="chrF",
    how="Sentence chrF by sacrebleu (character n-grams up to 6, beta 2), from 0 to 1, averaged.",
    score_each=chrf_scores,
)
ROUGE_L = TaskMetric(
    key="rouge_l",
    label="ROUGE-L",
    how="ROUGE-L F1 by rouge-score (longest common word sequence, no stemming), averaged.",
    score_each=rouge_l_scores,
)
EXACT_MATCH = TaskMetric(
    key="exact_match",
    label="Exact match",
    how="Share of answers that are the reference word for word, white space aside.",
    score_each=exact_match_scores,
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
