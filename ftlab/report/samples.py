"""Answers side by side: the same held-out prompts, what was wanted, the base, and each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ftlab import units
from ftlab.charts.savings import full_row, variant_means
from ftlab.html import chip, named
from ftlab.runs.store import Run
from ftlab.runs.sweep_data import SweepData
from ftlab.words import plural, shorten

EXAMPLES = 12
_MOST_ANSWERS = 8
_PROMPT_LENGTH, _ANSWER_LENGTH, _VERDICT_LENGTH = 1500, 800, 60
_EMPTY = Markup("")

Key = tuple[str, str]
"""Prompt and wanted answer: what makes two examples the same."""


@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt; `text` is `None` where it was not asked."""

    text: str | None
    verdict: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Speaker:
    """A base or a variant: the column of answers."""

    label: str
    method: str
    answers: Mapping[Key, Answer]


@dataclass(frozen=True)
class Samples:
    """`examples` are the first ones of `total`; `left_out` variants had no place."""

    examples: tuple[Key, ...]
    speakers: tuple[Speaker, ...]
    total: int
    left_out: int
    notes: tuple[str, ...]


def samples_of(data: SweepData, first: str = "") -> Samples | None:
    """The first examples of the record, answered by each base and one seed of each variant.

    Where there are too many variants, `first` and full fine-tuning have a place before the others.
    `None` if no run has samples.
    """
    notes: list[str] = []
    bases = [run for run in data.base_runs if run.status == "done"]
    runs = _one_each([run for run in data.own_runs if run.status == "done"])
    runs = _important_first(data, runs, first)
    room = max(1, _MOST_ANSWERS - len(bases))
    chosen, beyond = runs[:room], len(runs[room:])
    speakers = [_speaker(run, "before", notes) for run in bases]
    speakers += [_speaker(run, "after", notes) for run in _in_order(data, chosen)]
    speakers = [speaker for speaker in speakers if speaker.answers]
    if not speakers:
        return None
    longest = max(speakers, key=lambda speaker: len(speaker.answers))
    examples = tuple(list(longest.answers)[:EXAMPLES])
    return Samples(examples, tuple(speakers), len(longest.answers), beyond, tuple(notes))


def samples_section(samples: Samples) -> Markup:
    rule = (
        f"The first {len(samples.examples)} of {plural(samples.total, 'held-out example')}, in the "
        "order of the record; of each variant the run with the lowest seed."
    )
    if samples.left_out:
        rule += f" {plural(samples.left_out, 'further variant')} not shown."
    rule += f" Texts are cut after {_ANSWER_LENGTH} characters."
    return Markup(
        '<h2>The same prompts, answered side by side</h2><p class="meta">{}</p>{}'
    ).format(
        rule,
        _EMPTY.join(
            _example(number, key, samples.speakers)
            for number, key in enumerate(samples.examples, start=1)
        ),
    )


def _example(number: int, key: Key, speakers: Sequence[Speaker]) -> Markup:
    prompt, wanted = key
    answers = _EMPTY.join(
        Markup('<div class="said"><p>{}{}</p><div class="text">{}</div></div>').format(
            Markup(named(speaker.method, speaker.label)),
            _verdict(speaker.answers.get(key)),
            _text(speaker.answers.get(key)),
        )
        for speaker in speakers
    )
    return Markup(
        '<article class="example"><h3>{}</h3><div class="text prompt">{}</div>'
        '<p class="wanted"><small>wanted</small> <span class="text">{}</span></p>'
        '<div class="side">{}</div></article>'
    ).format(
        f"Example {number}",
        shorten(prompt, _PROMPT_LENGTH),
        shorten(wanted, _ANSWER_LENGTH),
        answers,
    )


def _text(answer: Answer | None) -> Markup:
    if answer is None or answer.text is None:
        return Markup("<small>not answered</small>")
    if not answer.text.strip():
        return Markup("<small>empty answer</small>")
    return Markup("{}").format(shorten(answer.text, _ANSWER_LENGTH))


def _verdict(answer: Answer | None) -> Markup:
    """The task's own words for the answer; where it has none, the score."""
    if answer is None or answer.text is None:
        return _EMPTY
    if not answer.verdict:
        if answer.score is None:
            return _EMPTY
        return Markup(" ") + Markup(chip(f"score {units.format_number(answer.score)}"))
    right = answer.score is not None and answer.score >= 1
    kind = "ok" if right else "bad"
    return Markup(" ") + Markup(chip(shorten(answer.verdict, _VERDICT_LENGTH), kind))


def _speaker(run: Run, when: str, notes: list[str]) -> Speaker:
    answers: dict[Key, Answer] = {}
    try:
        rows = run.directory.samples()
    except OSError as error:
        notes.append(f"The samples of {run.run_id} cannot be read ({error.strerror}).")
        rows = []
    for row in rows:
        text, score = row.get(f"answer_{when}"), row.get(f"score_{when}")
        answers[_key(row)] = Answer(
            None if text is None else str(text),
            str(row.get(f"verdict_{when}") or ""),
            float(score) if isinstance(score, int | float) else None,
        )
    return Speaker(run.spec.label, run.spec.method, answers)


def _key(row: Mapping[str, Any]) -> Key:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        parts = [_message(message) for message in prompt]
        prompt = "\n\n".join(parts)
    return str(prompt or ""), str(row.get("reference") or "")


def _message(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    role, content = str(message.get("role", "")), str(message.get("content", ""))
    return content if role in ("user", "") else f"[{role}] {content}"


def _one_each(runs: Sequence[Run]) -> list[Run]:
    """Of each variant the run with the lowest seed, in the order of the runs."""
    found: dict[str, Run] = {}
    for run in runs:
        known = found.get(run.spec.label)
        if known is None or run.spec.seed < known.spec.seed:
            found[run.spec.label] = run
    return list(found.values())


def _important_first(data: SweepData, runs: Sequence[Run], first: str) -> list[Run]:
    full = full_row(variant_means(data.table))
    names = [first, "" if full is None else str(full["variant"])]
    return sorted(runs, key=lambda run: run.spec.label not in names)


def _in_order(data: SweepData, runs: Sequence[Run]) -> list[Run]:
    place = {run.run_id: number for number, run in enumerate(data.runs)}
    return sorted(runs, key=lambda run: place[run.run_id])
