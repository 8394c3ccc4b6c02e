"""What runs say beside their numbers, each sentence once, with the runs that say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ftlab.runs.store import Run
from ftlab.words import some_names


def remarks(runs: Sequence[Run]) -> list[str]:
    """The sentences in order; one that not every trained run says begins with who says it.

    As in "QLoRA: Only the linear layers ..."; with the seed where other seeds do not say it.
    """
    said: dict[str, list[Run]] = {}
    for run in runs:
        for note in dict.fromkeys(run.result.notes if run.result else ()):
            said.setdefault(note, []).append(run)
    trained = [run for run in runs if run.result is not None and not run.spec.is_base]
    sentences = []
    for note, by in said.items():
        own = [run for run in by if not run.spec.is_base]
        common = not own or len(own) == len(trained)
        sentences.append(note if common else f"{_names(own, trained)}: {note}")
    return sentences


def _names(runs: Sequence[Run], all_runs: Sequence[Run]) -> str:
    """The variants of the runs, with the seed of those of which only some seeds are among them."""
    there = Counter(run.spec.label for run in all_runs)
    here = Counter(run.spec.label for run in runs)
    names = [
        label if here[label] == there[label] else f"{label} seed {run.spec.seed}"
        for run in runs
        for label in (run.spec.label,)
    ]
    return some_names(list(dict.fromkeys(names)))
