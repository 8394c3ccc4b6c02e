"""What a merge gave, in sentences that page and command line share."""

from __future__ import annotations

from ftlab import units
from ftlab.runs.merging import MergeRecord


def record_words(record: MergeRecord) -> list[str]:
    """Score and loss before and after merging, what the model is, and what is to be said."""
    words = []
    if record.score_after_merge is not None:
        words.append(
            f"Score {units.format_number(record.score_before_merge)} before merging, "
            f"{units.format_number(record.score_after_merge)} after{_gain(record)}."
        )
    if record.loss_after_merge is not None:
        words.append(
            f"Held-out loss {units.format_number(record.loss_before_merge, 3)} before, "
            f"{units.format_number(record.loss_after_merge, 3)} after."
        )
    words.append(
        f"A whole model of {units.format_bytes(record.bytes)} in {record.dtype}, made in "
        f"{units.format_seconds(record.seconds)} on {record.device}."
    )
    return [*words, record.note] if record.note else words


def _gain(record: MergeRecord) -> str:
    if record.score_gain is None:
        return ""
    mean, low, high = record.score_gain
    return f" ({mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f})"
