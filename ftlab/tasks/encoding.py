"""Examples as tokens: which of them fit, and what is said of the others. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftlab.errors import FtlabError
from ftlab.tasks.formatting import FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example


class TooLong(FtlabError):
    """No example is short enough."""


@dataclass(frozen=True)
class EncodedSet:
    """The examples that fit, in their order; `dropped` counts the ones that are too long."""

    examples: tuple[Example, ...]
    formatted: tuple[FormattedExample, ...]
    dropped: int

    def note(self, name: str, max_length: int) -> str:
        """A sentence on what was dropped, or "" where nothing was."""
        if not self.dropped:
            return ""
        total = self.dropped + len(self.examples)
        return (
            f"{self.dropped} of {total} {name} examples are longer than {max_length} tokens and "
            "were left out; raise the maximum length to use them."
        )


def encode(
    formatter: PromptFormatter, examples: Sequence[Example], max_length: int, name: str
) -> EncodedSet:
    """Formats the examples and leaves out, never cuts, the ones longer than `max_length`.

    Raises `TooLong` if none is left, `FtlabError` if an answer comes out as no token at all.
    """
    return fitting(examples, [formatter.format(one) for one in examples], max_length, name)


def fitting(
    examples: Sequence[Example], formatted: Sequence[FormattedExample], max_length: int, name: str
) -> EncodedSet:
    """`encode` for examples that were formatted before, at another maximum length, say."""
    silent = [item for item in formatted if not item.completion_ids]
    if silent:
        raise FtlabError(
            f"{len(silent)} of {len(formatted)} {name} examples "
            f"{'has' if len(silent) == 1 else 'have'} an answer of no token for this model, "
            f"{silent[0].completion_text!r} for one; use another model, or leave them out."
        )
    kept = [i for i, item in enumerate(formatted) if item.length <= max_length]
    if not kept:
        shortest = min((item.length for item in formatted), default=0)
        raise TooLong(
            f"All {len(formatted)} {name} examples are longer than {max_length} tokens; the "
            f"shortest has {shortest}. Raise the maximum length."
        )
    return EncodedSet(
        tuple(examples[i] for i in kept),
        tuple(formatted[i] for i in kept),
        len(formatted) - len(kept),
    )
