"""The types of a task: its examples, and the metrics that compare an answer with the reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import unknown_name

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "tuning", "held_out"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """One prompt, which ends with a user turn, with the completion to learn.

    `extra` is JSON for the metric only (for SQL the tables to run the query on).
    """

    prompt: tuple[Message, ...]
    completion: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last turn of the prompt, shown in lists of examples."""
        return self.prompt[-1].content

    def to_json(self) -> dict[str, Any]:
        prompt = [{"role": m.role, "content": m.content} for m in self.prompt]
        return {"prompt": prompt, "completion": self.completion, "extra": dict(self.extra)}


@dataclass(frozen=True)
class TaskData:
    """The three sets of a task. `notes` are sentences to show (dropped rows, and the reason).

    `told_by` is how many held-out examples its fingerprint covers at least, `None` for all.
    """

    train: tuple[Example, ...]
    tuning: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    told_by: int | None = None

    def fingerprint(self, scored: int) -> str:
        """SHA-256 over the examples in order; equal for two runs on the same data.

        `scored` is the number of examples that the run asks to score: those are covered too.
        """
        digest = hashlib.sha256()
        covered = None if self.told_by is None else max(self.told_by, scored)
        for part in (self.train, self.tuning, self.held_out[:covered]):
            for example in part:
                digest.update(json.dumps(example.to_json(), sort_keys=True).encode())
            digest.update(b"\x00")
        return digest.hexdigest()


SHOWN_ROWS = 8
"""Maximum number of rows of a result that are kept to show."""


@dataclass(frozen=True)
class ResultTable:
    """The first rows of a query's result; `more` is the number of rows left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: int

    @classmethod
    def of(cls, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> ResultTable:
        """Keeps at most `SHOWN_ROWS` of the rows."""
        shown = tuple(rows[:SHOWN_ROWS])
        return cls(columns, shown, len(rows) - len(shown))


@dataclass(frozen=True)
class ResultTables:
    """The results of the reference query and of the answer's `query`; `None` with an `error`."""

    expected: ResultTable
    found: ResultTable | None
    error: str
    query: str


@dataclass(frozen=True)
class TaskMetric:
    """How an answer is scored.

    `score(example, answer)` is in [0, 1], higher is better; a task's score is the mean over its
    examples. `describe(example, answer)` returns a short verdict ("runs, equal"), or "".
    `result_tables(example, answer)` runs both queries again and returns their results, or `None`.
    `hub_id` is the metric among those of the Hugging Face Hub (https://huggingface.co/metrics), ""
    for none of them, whose values are `hub_scale` times the score.
    """

    key: str
    label: str
    how: str
    score: Callable[[Example, str], float]
    hub_id: str = ""
    hub_scale: float = 1.0
    describe: Callable[[Example, str], str] = lambda example, answer: ""
    result_tables: Callable[[Example, str], ResultTables | None] = lambda example, answer: None

    def score_each(self, examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        return [self.score(*pair) for pair in zip(examples, answers, strict=True)]


MAX_NEW_TOKENS = 96
"""Default maximum number of tokens of an answer."""


@dataclass(frozen=True)
class TaskSpec:
    """A task: its name, its summary, and how its answers are scored.

    The examples of a bundled task are in `assets/tasks/<id>.jsonl`, whose SHA-256 is `sha256`.
    `place` sorts bundled tasks in lists, smallest first.
    """

    id: str
    label: str
    summary: str
    metric: TaskMetric
    max_new_tokens: int = MAX_NEW_TOKENS
    sha256: str = ""
    place: int = 100


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
    hub_id="chrf",
    hub_scale=100.0,
)
ROUGE_L = TaskMetric(
    key="rouge_l",
    label="ROUGE-L",
    how="ROUGE-L F1 by rouge-score (longest common word sequence, no stemming), averaged.",
    score=rouge_l,
    hub_id="rouge",
)
EXACT_MATCH = TaskMetric(
    key="exact_match",
    label="Exact match",
    how="Share of answers that are the reference word for word, white space aside.",
    score=exact_match,
    hub_id="exact_match",
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
