"""Quality before and after a run: means, and why a score fell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ftlab.runs.differences import PairedDifference
from ftlab.units import format_signed
from ftlab.words import rate_name

Row = Mapping[str, Any]


def mean_of(values: Sequence[Any], weights: Sequence[float] | None = None) -> float | None:
    """The (weighted) mean; `None` where a value is missing, or there is none."""
    if not values or not _all_numbers(values):
        return None
    shares = [1.0] * len(values) if weights is None else weights
    return sum(v * share for v, share in zip(values, shares, strict=True)) / sum(shares)


def why_score_fell(
    score: PairedDifference,
    loss: PairedDifference | None,
    general: PairedDifference | None,
    rows: Sequence[Row],
    learning_rate: float | None,
) -> str:
    """What was seen of a score that lies below the untouched model's by more than its interval.

    `rows` are those of samples.jsonl. Says which answers got worse and how, what the losses did,
    and what that points to.
    """
    worse = [row for row in rows if row["score_after"] < row["score_before"]]
    better = sum(row["score_after"] > row["score_before"] for row in rows)
    sentence = (
        f"The score fell by {-score.mean:.2f} (95 % interval {-score.high:.2f} to "
        f"{-score.low:.2f}) against the untouched model: {len(worse)} of {len(rows)} answers got "
        f"worse and {better} better{_what_became(worse)}."
    )
    return f"{sentence} {_what_losses_say(loss, general, learning_rate)}"


def _what_became(worse: Sequence[Row]) -> str:
    """As in "; of the worse ones 5 are empty"; empty where nothing is common to them."""
    empty = sum(not str(row.get("answer_after") or "").strip() for row in worse)
    verdicts = Counter(str(row.get("verdict_after") or "") for row in worse)
    del verdicts[""]
    if 2 * empty > len(worse):
        return f"; {empty} of the worse ones are empty"
    if verdicts and 2 * verdicts.most_common(1)[0][1] > len(worse):
        words, count = verdicts.most_common(1)[0]
        return f"; {count} of the worse ones: {words}"
    return ""


def _what_losses_say(
    loss: PairedDifference | None, general: PairedDifference | None, learning_rate: float | None
) -> str:
    seen = []
    if loss is not None and loss.rises:
        seen.append(f"the held-out loss rose by {loss.mean:.2f}")
    elif loss is not None and loss.falls:
        seen.append(f"the held-out loss fell by {-loss.mean:.2f} nonetheless")
    elif loss is not None:
        seen.append("the held-out loss shows no change")
    if general is not None and general.rises:
        seen.append(f"the loss on unrelated text rose by {general.mean:.2f}")
    if not seen:
        return "No loss is known that would say why."
    sentence = " and ".join(seen)
    return f"{sentence[:1].upper()}{sentence[1:]}: {_points_to(loss, general, learning_rate)}."


def _points_to(
    loss: PairedDifference | None, general: PairedDifference | None, learning_rate: float | None
) -> str:
    rate = f"learning rate ({rate_name(learning_rate)})"
    if loss is not None and loss.falls:
        return (
            "the wanted answers became more likely, but not so likely that it writes them by "
            "itself; more steps may help"
        )
    if (loss is not None and loss.rises) or (general is not None and general.rises):
        return f"the {rate} is likely too high, or the steps are too many"
    return f"likely too few steps, or too low a {rate}"


def score_against_whole(precision: str, score: PairedDifference | None) -> str:
    """The sentence on a run whose own base is quantised: what it is compared with.

    `score`: the change against the base that is not; `None` where the sweep has none.
    """
    before = f"Before is the untouched model in {precision}, as this run has it."
    if score is None:
        return f"{before} The sweep has no run of it that is not quantised to compare with."
    return (
        f"{before} Against the one that is not quantised the score changed by "
        f"{format_signed(score.mean)} (95 % interval {format_signed(score.low)} to "
        f"{format_signed(score.high)})."
    )


def _all_numbers(*lists: Sequence[Any]) -> bool:
    return all(
        isinstance(value, int | float) and math.isfinite(value)
        for values in lists
        for value in values
    )
