"""Which architectures ftlab is right on: four methods on a tiny random model of each.

Run as: python -m tests.benchmarks.architectures [--families llama,mamba] [--write FILE]

Exits with 1 where a method is wrong on a family, and says what is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftlab.methods.registry import METHODS as ALL_METHODS
from ftlab.methods.targets import reach_words
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import shape_of_model
from tests.architectures import CHECKS, FAMILIES, METHODS, Trial, make_model

Answers = Mapping[str, Mapping[str, str]]
"""By method and check what is wrong; "refused" with the sentence where it cannot be trained."""


REFUSED = "refused"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    rows, notes, wrong = [], [], []
    for family in options.families.split(","):
        answers, reach = examine(family)
        rows.append(_row(family, answers, reach))
        print(rows[-1], flush=True)
        for method, found in answers.items():
            notes += [f"{family}, {method}: {why}" for why in [found.get(REFUSED)] if why]
            wrong += [
                f"{family}, {method}, {check}: {why}"
                for check, why in found.items()
                if why and check != REFUSED
            ]
    if options.write:
        options.write.write_text(document(rows, notes), encoding="utf-8")
    print("\n".join(wrong))
    return 1 if wrong else 0


def examine(family: str) -> tuple[Answers, str]:
    """What each method answered, and what LoRA is laid over."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny = make_model(family, folder / "model")
        found = {}
        for method in METHODS:
            trial = Trial(family, tiny, method, folder)
            refusal = trial.refusal()
            found[method] = {REFUSED: refusal} if refusal else trial.answers()
        shape = shape_of_model(str(tiny.folder))
        assert shape is not None
        lora = Variant("lora")
        return found, reach_words(lora.spec, shape, lora.values())


def _row(family: str, answers: Answers, reach: str) -> str:
    marks = [
        "–" if REFUSED in found else "✗" if any(found.values()) else "✓"
        for found in answers.values()
    ]
    reach = reach.removeprefix("Adapts ").rstrip(".") or "all linear layers"
    return f"| {' | '.join([family, *marks, reach])} |"


def document(rows: Sequence[str], notes: Sequence[str]) -> str:
    """docs/architectures.md; `notes` are the sentences of what is refused before a run."""
    heads = ["family", *(ALL_METHODS[method].label for method in METHODS), "LoRA adapts"]
    return "\n".join(
        [
            "# Architectures",
            "",
            "Made by `python -m tests.benchmarks.architectures --write docs/architectures.md`, on",
            "tiny random models of transformers' own configurations, in fp32 on a CPU.",
            "",
            f"| {' | '.join(heads)} |",
            "| --- " * len(heads) + "|",
            *rows,
            "",
            *(f"- {note}" for note in notes),
            *([""] if notes else []),
            "✓: all of this was seen to hold. ✗: something was not. –: refused before the run.",
            "",
            *(f"- *{check.name}*: {check.meaning}" for check in CHECKS),
            "",
            "A layer narrower than the rank gets a rank as large as it is wide, with alpha to",
            "match; a method that has one rank for all layers leaves it out. Both are said beside",
            "the method and in the run's notes. Routers of experts are never adapted.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
