"""Why a probe failed, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

from ftlab.errors import one_line
from ftlab.words import join_names, shorten


def in_plain_words(error: BaseException) -> str:
    """One short sentence without a full stop; what is not known is the error's first sentence."""
    text = one_line(error)
    for part, words in _KNOWN:
        if part in text:
            return words
    return shorten(text.split(". ")[0].rstrip("."), 160)


_KNOWN = (
    ("floating point dtype can require grad", "weights in so few bits cannot learn"),
    ("initialize PiSSA under", "its start is taken from weights in 16 bits or more"),
    ("no attribute 'unsqueeze'", "PEFT loses the scales of 8-bit weights on a CPU"),
    ("shapes cannot be multiplied", "PEFT takes packed weights for ones of full size"),
    ("must match the size of tensor b", "it turns off the cache, in which a prefix lies"),
    ("is invalid for input of size", "PEFT takes packed weights for ones of full size"),
)
"""Parts of messages of PEFT and torch as they were met, and what lies behind them."""

_CHECKS = {
    "trains": "training",
    "loss_falls": "learning",
    "saves": "saving",
    "reloads": "loading again",
    "generates": "answering",
    "changes_output": "changing the text",
    "merges": "merging",
    "on_4bit": "on 4 bits",
    "on_8bit": "on 8 bits",
    "with_checkpointing": "gradient checkpointing",
    "base_untouched": "leaving the base alone",
    "plain_generate": "PEFT's own generate",
}


def whole_reason(reasons: Mapping[str, str]) -> str:
    """One text of the reasons by check; checks that failed for one reason share its sentence."""
    shared: dict[str, list[str]] = {}
    for check, why in reasons.items():
        shared.setdefault(why, []).append(_CHECKS[check])
    parts = [f"{join_names(names)}: {why}." for why, names in shared.items()]
    return " ".join(part[0].upper() + part[1:] for part in parts)
