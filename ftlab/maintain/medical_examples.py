"""Makes the examples of the medical task: a short synthetic note, and its summary in one line.

    58F, tight chest x3d. BP 150/90; normal heart sounds. Imp: angina. Rx aspirin 75 mg OD. FU 2w.

The model learns the style (abbreviations, order, units). Complaints, findings, conditions and drugs
of the held-out notes never appear in training. Everything is invented for a writing exercise;
nothing here is medical advice.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ftlab.tasks.spec import Example, Message, Split

Pair = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """A condition with the possible values of its notes; a drug is "name dose unit"."""

    condition: str
    complaints: tuple[str, ...]
    findings: tuple[str, ...]
    drugs: tuple[str, ...]


@cache
def cases(split: Split) -> tuple[Case, ...]:
    """Returns the split's conditions; a line has name; complaints; findings; drugs with a dose."""
    file = Path(__file__).with_name("medical_words.json")
    rows = [line.split("; ") for line in json.loads(file.read_bytes())[split]]
    return tuple(Case(row[0], *(tuple(cell.split(", ")) for cell in row[1:])) for row in rows)


_FREQUENCIES: tuple[Pair, ...] = (
    ("once daily", "OD"),
    ("twice daily", "BD"),
    ("three times daily", "TDS"),
    ("at night", "ON"),
    ("as needed", "PRN"),
)
_PEOPLE: tuple[Pair, ...] = (("man", "M"), ("woman", "F"), ("male", "M"), ("female", "F"))


def _duration(rng: random.Random) -> Pair:
    unit, short, most = rng.choice([("day", "d", 10), ("week", "w", 8), ("month", "m", 11)])
    count = rng.randint(2, most)
    return f"{count} {unit}s", f"{count}{short}"


def _measurement(rng: random.Random, kind: str) -> Pair:
    if kind == "BP":
        upper, lower = rng.randint(95, 185), rng.randint(55, 105)
        return f"blood pressure {upper} over {lower}", f"BP {upper}/{lower}"
    if kind == "T":
        value = rng.randint(361, 399) / 10
        return f"temperature {value}", f"T {value}"
    words, low, high = {
        "HR": ("heart rate", 52, 128),
        "RR": ("respiratory rate", 11, 30),
        "Sat": ("oxygen saturation", 88, 99),
        "Wt": ("weight", 45, 118),
    }[kind]
    value = rng.randint(low, high)
    return f"{words} {value}", f"{kind} {value}"


def make(rng: random.Random, split: Split) -> Example:
    case = rng.choice(cases(split))
    age = rng.randint(18, 91)
    who, sex = rng.choice(_PEOPLE)
    complaint, finding = rng.choice(case.complaints), rng.choice(case.findings)
    drug = rng.choice(case.drugs)
    how_long, long = _duration(rng)
    review, back = _duration(rng)
    often, rate = rng.choice(_FREQUENCIES)
    kinds = rng.sample(["BP", "T", "HR", "RR", "Sat", "Wt"], rng.choice([1, 2, 2]))
    measured = [_measurement(rng, kind) for kind in kinds]
    words = " and ".join(pair[0] for pair in measured)

    article = "An" if age == 18 or 80 <= age <= 89 else "A"
    presents = rng.choice(
        [
            f"{article} {age}-year-old {who} presents with {complaint} for {how_long}.",
            f"{age}-year-old {who} with {how_long} of {complaint}.",
            f"This {who}, aged {age}, reports {complaint} over the last {how_long}.",
        ]
    )
    examined = rng.choice(
        [
            f"Examination shows {finding}, {words}.",
            f"On examination {words}; {finding}.",
            f"Findings: {finding}, with {words}.",
        ]
    )
    treated = rng.choice(
        [
            f"Likely {case.condition}. Start {drug} {often} and review in {review}.",
            f"Diagnosis is {case.condition}; given {drug} {often}. Return in {review}.",
            f"We suspect {case.condition} and prescribe {drug} {often}, follow-up after {review}.",
        ]
    )
    summary = (
        f"{age}{sex}, {complaint} x{long}. {', '.join(pair[1] for pair in measured)}; {finding}. "
        f"Imp: {case.condition}. Rx {drug} {rate}. FU {back}."
    )
    prompt = f"Summarise the note in one line.\n{presents} {examined} {treated}"
    return Example((Message("user", prompt),), summary)
