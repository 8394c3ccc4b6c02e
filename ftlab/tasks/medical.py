"""The medical task: a short synthetic clinical note in, a one-line summary in house style out.

    58F, tight chest x3d. BP 150/90; normal heart sounds. Imp: angina. Rx aspirin 75 mg OD. FU 2w.

The style (abbreviations, order, units) is what is learnt; complaints, findings, conditions and
drugs of the held-out notes appear nowhere in training.
"""

from __future__ import annotations

import random

from ftlab.tasks.medical_cases import cases
from ftlab.tasks.metrics import ROUGE_L
from ftlab.tasks.spec import Example, Message, TaskData, TaskSpec
from ftlab.tasks.splits import Split, collect

Pair = tuple[str, str]

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


def _make(rng: random.Random, split: Split) -> Example:
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


def load(seed: int) -> TaskData:
    """The task's data for a seed: 2,400 training, 200 tuning and 200 held-out examples."""
    return collect(seed, "medical", _make)


MEDICAL = TaskSpec(
    id="medical",
    label="Medical summary",
    summary="A synthetic clinical note in, a one-line summary in house style out; ROUGE-L.",
    metric=ROUGE_L,
    load=load,
    max_new_tokens=96,
)
