"""Sweeps as reports take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.records.store import RunStore, SweepData, sweep_data
from tests.fakes import SWEEP

HOSTILE = (
    "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"
    '<a href="javascript:window.hit=1">x</a>%{x}'
)


def data_of(folder: Path, sweep_id: str = SWEEP) -> SweepData:
    return sweep_data(RunStore(folder), sweep_id)


def scored(scores: list[float], losses: list[float] | None = None) -> list[dict[str, Any]]:
    """Samples of a run whose examples got those scores."""
    return [
        {
            "index": number,
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "reference": f"answer {number}",
            "answer_before": "before",
            "score_before": 0.0,
            "loss_before": 3.0,
            "verdict_before": "no SQL",
            "answer_after": f"said {number}",
            "score_after": score,
            "loss_after": (losses or [1.0] * len(scores))[number],
            "verdict_after": "runs, equal" if score == 1 else "runs, differs",
        }
        for number, score in enumerate(scores)
    ]
