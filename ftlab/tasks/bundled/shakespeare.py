"""The Shakespeare task: rewrites a plain sentence in Early Modern English."""

from __future__ import annotations

from ftlab.tasks.spec import CHRF, TaskSpec

TASK = TaskSpec(
    id="shakespeare",
    label="Shakespeare",
    summary="A plain sentence in, the same sentence in Early Modern English out, scored with chrF.",
    metric=CHRF,
    max_new_tokens=48,
    sha256="b5a6b1916b8661874dc6d27bc08c8322337ec3b175f2425818ce2f6260de85e5",
    place=2,
)
