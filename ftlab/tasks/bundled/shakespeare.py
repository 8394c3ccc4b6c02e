"""The Shakespeare task: rewrites a plain sentence in Early Modern English."""

from __future__ import annotations

from ftlab.tasks.spec import CHRF, TaskSpec

TASK = TaskSpec(
    id="shakespeare",
    label="Shakespeare",
    summary="A plain sentence in, the same sentence in Early Modern English out, scored with chrF.",
    metric=CHRF,
    max_new_tokens=48,
    sha256="1cc8014ffd8307761ed6dc5ed5d5bd46c5a16053a18b95f79a51f3224594b188",
    place=2,
)
