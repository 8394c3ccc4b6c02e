"""The content of the card and of the Compare tab: a sentence, five numbers, bars, and their origin.

Every number is taken from the runs. If they show no saving or no difference, or if full fine-tuning
is missing, the card states this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ftlab.basics import units
from ftlab.basics.words import join_names, plural, shorten
from ftlab.charts.drawing import short_name
from ftlab.charts.facts import origin_words
from ftlab.charts.forgetting import gain_words
from ftlab.charts.savings import (
    Comparison,
    adapters,
    compare,
    full_row,
    less_or_more,
    nothing_to_compare,
    times,
    variant_means,
)
from ftlab.models.reference import model_label
from ftlab.records.comparability import Comparability, comparability_of_rows
from ftlab.records.differences import Difference, Outcome, PairedDifference, differences_of
from ftlab.records.metrics import METRICS
from ftlab.records.power import (
    POWER,
    ScoredRun,
    Way,
    discordance_of,
    smallest_difference,
    ways_to_show,
)
from ftlab.records.store import SweepData
from ftlab.records.table import Origin, origin_label

_MOST_NAMED = 2
_FACT_LENGTH = 48


def facts_of(data: SweepData) -> tuple[str, str]:
    """Two lines of provenance: what it was measured on, and how."""
    rows = data.table[data.table["status"] == "done"]
    where = [
        _named(rows["machine"].where(rows["machine"] != "", rows["device"]), "machines"),
        _named((model_label(str(name)) for name in rows["model"]), "models"),
        _named(rows["task"], "tasks"),
        _prefixed("dtype policy ", _named(rows["dtype_policy"], "dtype policies")),
        _steps(rows),
    ]
    how = [
        _seeds(rows),
        _prefixed("memory: ", _named(rows["peak_memory_kind"], "kinds of memory")),
        _disturbed(rows),
        "measured by others" if data.origin == "imported" else "",
        f"sweep {data.sweep_id}",
    ]
    return _joined(where), _joined(how)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value < 1e11


def _named(values: Iterable[object], several: str) -> str:
    """The shared value, or a few different values, or their number."""
    names = list(dict.fromkeys(str(value) for value in values if isinstance(value, str) and value))
    if len(names) > _MOST_NAMED:
        return f"{len(names)} {several}"
    return " / ".join(shorten(name, _FACT_LENGTH) for name in names)


def _prefixed(prefix: str, text: str) -> str:
    return f"{prefix}{text}" if text else ""


def _steps(rows: pd.DataFrame) -> str:
    steps = sorted({int(value) for value in rows["steps"] if _is_time(value)})
    return f"{' / '.join(f'{count:,}' for count in steps)} steps" if 0 < len(steps) <= 2 else ""


def _seeds(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    if rows.groupby("variant")["seed"].agg(frozenset).nunique() > 1:
        return "seeds differ by variant"
    runs = int(rows.groupby("variant").size().max())
    seeds = int(rows.groupby("variant")["seed"].nunique().max())
    if runs == 1:
        return "each run once: how far repeats differ is not known"
    return f"means of {seeds} repeats (seeds)" if seeds == runs else f"means of {runs} runs"


def _disturbed(rows: pd.DataFrame) -> str:
    count = sum(value is True or value == 1 for value in rows["disturbed"])
    if not count:
        return ""
    return f"the computer was busy during {plural(count, 'run')}: times are too long"


def _joined(parts: Iterable[str]) -> str:
    return " · ".join(filter(None, parts))


Mood = Literal["plain", "good", "even", "bad"]
"""A value against full fine-tuning's: unknown, better, no difference shown, worse."""

_MOODS: dict[Outcome, Mood] = {
    "better": "good", "worse": "bad", "even": "even", "unknown": "plain",
}  # fmt: skip

Verdict = Literal["saving", "partial", "none", "incomplete"]

_COSTS = {
    "net_peak_memory_bytes": "memory",
    "train_seconds": "training time",
    "adapter_bytes": "file size",
}
_BAR_TITLES = {
    "net_peak_memory_bytes": "Memory while training",
    "train_seconds": "Training time",
    "adapter_bytes": "File to deliver",
}
_COST_NOTES: dict[Mood, str] = {
    "plain": "",
    "good": "",
    "even": "no difference shown",
    "bad": "more than full",
}
_NAME_LENGTH, _SENTENCE_LENGTH, _MOST_NAMES = 40, 240, 2
_QUALITIES = ("score_after", "eval_loss_after")


@dataclass(frozen=True)
class Tile:
    """One large number. `note` states the `mood` in words; `more` has no space on the card."""

    value: str
    label: str
    detail: str = ""
    mood: Mood = "plain"
    note: str = ""
    more: str = ""


@dataclass(frozen=True)
class Bar:
    """`length` is the share of the longer bar of the pair, in [0, 1]."""

    name: str
    method: str
    length: float
    text: str


@dataclass(frozen=True)
class Pair:
    """The bars of the method and of full fine-tuning, for one measure."""

    title: str
    bars: tuple[Bar, Bar]


@dataclass(frozen=True)
class Card:
    """`judgement` is the verdict in words; `facts` are two lines of provenance.

    `unlike` is what differs between the runs of the two variants; "" if the comparison is fair.
    `sweep_id` is "" on a card of predictions. `doubts` are sentences on why no difference is shown.
    """

    sentence: str
    verdict: Verdict
    judgement: str
    variant: str
    method: str
    tiles: tuple[Tile, ...]
    pairs: tuple[Pair, ...]
    facts: tuple[str, str]
    origin: Origin | Literal["predicted"]
    origin_text: str
    sweep_id: str
    unlike: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Quality:
    """The quality measure that both variants have; `paired` is by test example, in its unit."""

    name: str
    difference: Difference
    paired: PairedDifference | None

    @property
    def key(self) -> str:
        return self.difference.key

    @property
    def mood(self) -> Mood:
        return _MOODS[self.difference.outcome]

    @property
    def direction(self) -> str:
        return "higher" if self.difference.value > self.difference.other else "lower"

    @property
    def note(self) -> str:
        if self.mood == "plain":
            return ""
        return "no difference shown" if self.mood == "even" else self.direction


def card_variants(data: SweepData) -> list[str]:
    """The variants that can be the subject of a card, best first."""
    means = variant_means(data.table)
    return [str(name) for name in adapters(means)["variant"]]


def card_of(data: SweepData, variant: str | None = None) -> Card:
    """The card of a sweep, about the named variant or else the best one."""
    found = compare(data.table, variant)
    if found is None:
        return _incomplete(data, variant)
    name = str(found.adapter["variant"])
    costs = {key: differences_of(data.table, key).between(*_names(found)) for key in _COSTS}
    moods = {key: _cost_mood(cost) for key, cost in costs.items()}
    quality = _quality(data.table, found)
    like = _comparability(data.table, found)
    verdict = _verdict(moods, quality, like.is_like)
    return Card(
        sentence=_sentence(name, found, moods, quality),
        verdict=verdict,
        judgement=_judgement(verdict, moods, quality, like),
        variant=name,
        method=str(found.adapter["method"]),
        tiles=_tiles(data, found, costs, quality),
        pairs=tuple(_pair(found, key) for key, mood in moods.items() if mood != "plain"),
        facts=facts_of(data),
        origin=data.origin,
        origin_text=origin_words(data.table) or origin_label(data.origin),
        sweep_id=data.sweep_id,
        unlike=like.sentence,
        doubts=(*_doubts(costs, quality), *_settling(data.table, found, quality)),
    )


def _names(found: Comparison) -> tuple[str, str]:
    return str(found.adapter["variant"]), str(found.full["variant"])


def _cost_mood(cost: Difference) -> Mood:
    return "plain" if math.isnan(cost.ratio) else _MOODS[cost.outcome]


def _quality(table: pd.DataFrame, found: Comparison) -> _Quality | None:
    for key in _QUALITIES:
        if math.isnan(found.value(key)) or math.isnan(found.full_value(key)):
            continue
        name = "score" if key == "score_after" else "test loss"
        differences, names = differences_of(table, key), _names(found)
        return _Quality(name, differences.between(*names), differences.paired(*names))
    return None


def _doubts(costs: dict[str, Difference], quality: _Quality | None) -> list[str]:
    """As in "Training time: no difference shown (their repeats overlap)."."""
    named = [(_COSTS[key], cost) for key, cost in costs.items()]
    named += [(quality.name, quality.difference)] if quality else []
    return [f"{name.capitalize()}: {part.doubt}." for name, part in named if part.doubt]


_SMALLEST_SAID = 0.005
"""A smaller difference in score is shown as 0.00."""


def _settling(table: pd.DataFrame, found: Comparison, quality: _Quality | None) -> list[str]:
    """What the sweep could have shown, and what would show the difference in score that was seen.

    As in "This sweep can show a difference in score of about 0.15. If the true one is 0.03 as here,
    1,900 examples and 1 seed (about 90 min) would show it in 80 of 100 sweeps."; empty unless no
    difference is shown.
    """
    if quality is None or quality.key != "score_after" or quality.mood != "even":
        return []
    if quality.paired is None:
        return []
    seen = discordance_of(_scored_runs(table))
    examples, difference = quality.paired.examples, abs(quality.paired.mean)
    smallest = smallest_difference(examples, quality.difference.runs, seen)
    if smallest is None:
        return []
    words = f"This sweep can show a difference in score of about {smallest:.2f}."
    each = [
        f"{way.words} ({_about(_seconds(table, _names(found), examples, way))})"
        for way in ways_to_show(difference, seen)
    ]
    if not each or difference < _SMALLEST_SAID:
        return [words]
    return [
        f"{words} If the true one is {difference:.2f} as here, {' or '.join(each)} would show it "
        f"in {100 * POWER:.0f} of 100 sweeps."
    ]


def _scored_runs(table: pd.DataFrame) -> list[ScoredRun]:
    done = table[table["status"] == "done"]
    columns = (done[name].tolist() for name in ("sweep_id", "variant", "seed", "run_dir"))
    return [ScoredRun(*values) for values in zip(*columns, strict=True) if values[-1]]


def _seconds(table: pd.DataFrame, variants: Sequence[str], examples: int, way: Way) -> float:
    """Of the variants' runs: training as here, all else as much longer as there are examples."""
    own = table[(table["status"] == "done") & table["variant"].isin(variants)]
    means = own.groupby("variant")[["train_seconds", "total_seconds"]].mean().sum(skipna=False)
    rest = means["total_seconds"] - means["train_seconds"]
    return float(way.seeds * (means["train_seconds"] + rest * way.examples / examples))


def _about(seconds: float) -> str:
    return f"about {math.ceil(seconds / 60):,} min" if math.isfinite(seconds) else "time unknown"


def _sentence(
    name: str, found: Comparison, moods: dict[str, Mood], quality: _Quality | None
) -> str:
    """For people who do not train models; the exact terms are in the tiles.

    As in "QLoRA trained this model with 61 % less memory than full fine-tuning, scored 0.56 against
    0.56 (no difference shown), and its file to deliver is 27 times smaller."
    """
    memory, file = moods["net_peak_memory_bytes"], moods["adapter_bytes"]
    if memory == "plain":
        how = "beside full fine-tuning (memory not measured for both)"
    elif memory == "even":
        how = "with about the memory of full fine-tuning (no difference shown)"
    else:
        change = _change(found.ratio("net_peak_memory_bytes"), "less", "more")
        how = f"with {change} memory than full fine-tuning"
    parts = [f"trained this model {how}"]
    if quality is None:
        parts.append("its score was not measured")
    else:
        show = METRICS[quality.key].format
        both = f"{show(found.value(quality.key))} against {show(found.full_value(quality.key))}"
        is_score = quality.key == "score_after"
        if quality.mood in ("good", "bad"):
            way = quality.direction
            parts.append(f"scored {way} ({both})" if is_score else f"had a {way} loss ({both})")
        else:
            even = f" ({quality.note})" if quality.note else ""
            parts.append(f"{'scored' if is_score else 'had a loss of'} {both}{even}")
    if file != "plain":
        ratio = found.ratio("adapter_bytes")
        size = f"{1 / ratio:,.0f} times smaller" if 0 < ratio <= 0.5 else _change(ratio)
        parts.append(f"its file to deliver is {size}")
    return f"{shorten(name, _NAME_LENGTH)} {', '.join(parts[:-1])}, and {parts[-1]}."


def _change(ratio: float, less: str = "smaller", more: str = "larger") -> str:
    """A ratio in words: 0.39 -> "61 % less"; 1.11 -> "11 % more"."""
    percent = round(100 * abs(ratio - 1))
    return f"{percent or 'under 1'} % {less if ratio < 1 else more}"


def _comparability(table: pd.DataFrame, found: Comparison) -> Comparability:
    """Whether the runs of both variants are a fair comparison."""
    names = [row["variant"] for row in (found.adapter, found.full)]
    return comparability_of_rows(table[(table["status"] == "done") & table["variant"].isin(names)])


def _verdict(moods: dict[str, Mood], quality: _Quality | None, like: bool) -> Verdict:
    saved = [mood == "good" for mood in moods.values()]
    pays = quality is None or quality.mood == "bad" or not like
    if not any(saved):
        return "none"
    return "saving" if all(saved) and not pays else "partial"


def _judgement(
    verdict: Verdict, moods: dict[str, Mood], quality: _Quality | None, like: Comparability
) -> str:
    def names(*wanted: Mood) -> str:
        return join_names([word for key, word in _COSTS.items() if moods[key] in wanted])

    parts = [] if like.is_like else [f"Not a fair comparison ({like.names(_MOST_NAMES)})"]
    if verdict == "none":
        parts.append("No saving shown")
    else:
        parts.append(f"Saves {names('good')}")
        if names("bad", "even"):
            parts.append(f"no saving in {names('bad', 'even')}")
    if names("plain"):
        parts.append(f"{names('plain')} not measured for both")
    if quality is None:
        parts.append("no score or loss measured for both")
    if quality is not None and quality.mood == "bad":
        parts.append(f"{quality.name} {quality.direction} than full fine-tuning’s")
    return "; ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])


def _tiles(
    data: SweepData, found: Comparison, costs: dict[str, Difference], quality: _Quality | None
) -> tuple[Tile, ...]:
    def tile(value: str, label: str, detail: str, cost: Difference, more: str = "") -> Tile:
        mood = _cost_mood(cost)
        return Tile(value, label, detail, mood, _COST_NOTES[mood], more)

    memory, seconds, file = costs.values()
    return (
        Tile(
            units.format_share(found.value("trainable_share")),
            "of the parameters trained",
            _beside_full(found, "trainable_params"),
        ),
        tile(
            less_or_more(memory.ratio),
            "memory while training",
            f"{times(memory.ratio)} net peak: {_beside_full(found, memory.key)}",
            memory,
            f"whole process {_beside_full(found, 'peak_memory_bytes')}",
        ),
        tile(
            less_or_more(seconds.ratio),
            "training time",
            f"{times(seconds.ratio)}: {_beside_full(found, seconds.key)}",
            seconds,
        ),
        tile(
            units.format_bytes(file.value),
            f"to deliver, full {units.format_bytes(file.other)}",
            _smaller(file.ratio),
            file,
        ),
        _quality_tile(data, found, quality),
    )


def _beside_full(found: Comparison, key: str) -> str:
    """Both values of a measure, as in "603 MB, full 1.55 GB"."""
    show = METRICS[key].format
    return f"{show(found.value(key))}, full {show(found.full_value(key))}"


def _smaller(ratio: float) -> str:
    """A ratio of sizes in words: 0.037 -> "27x smaller"; 1.2 -> "1.20x the size"."""
    if not ratio > 0:  # NaN, or a file of 0 bytes
        return "not measured for both"
    return f"{1 / ratio:,.0f}x smaller" if ratio < 0.95 else f"{ratio:.2f}x the size"


def _quality_tile(data: SweepData, found: Comparison, quality: _Quality | None) -> Tile:
    if quality is None:
        return Tile(units.DASH, "score", "not measured for both")
    show = METRICS[quality.key].format
    name = quality.name if quality.key != "score_after" else _metric_name(data.table)
    before = _before_words(data.table, found, quality)
    interval = _interval_words(quality)
    return Tile(
        show(found.value(quality.key)),
        f"{name}, full {show(found.full_value(quality.key))}",
        interval or before,
        quality.mood,
        quality.note,
        before if interval else "",
    )


def _interval_words(quality: _Quality) -> str:
    paired = quality.paired
    if paired is None:
        return ""
    low, high = (units.format_number(value, 2) for value in (paired.low, paired.high))
    return f"{_signed(low)} to {_signed(high)} with 95 %, on {paired.examples} examples"


def _signed(number: str) -> str:
    return number.replace("-", "−") if number.startswith("-") else f"+{number}"


def _before_words(table: pd.DataFrame, found: Comparison, quality: _Quality) -> str:
    before = quality.key.replace("_after", "_before")
    words = f"untouched model {METRICS[before].format(found.value(before))}"
    return words if quality.key != "score_after" else _with_gain(words, table, found.adapter)


def _with_gain(words: str, table: pd.DataFrame, row: pd.Series) -> str:
    """As in "untouched model 0.31: +0.40 (+0.29 to +0.52)"."""
    gain = gain_words(table, str(row["variant"]))
    return f"{words}: {gain.replace('-', '−')}" if gain else words


def _metric_name(table: pd.DataFrame) -> str:
    names = [str(name) for name in table["metric"] if isinstance(name, str) and name]
    return names[0] if names else "score"


def _pair(found: Comparison, key: str) -> Pair:
    longest = max(found.value(key), found.full_value(key))

    def bar(row: pd.Series) -> Bar:
        value, method = float(row[key]), str(row["method"])
        name = short_name(str(row["variant"]), method, 18)
        return Bar(name, method, max(0.0, value / longest), METRICS[key].format(value))

    return Pair(_BAR_TITLES[key], (bar(found.adapter), bar(found.full)))


def _incomplete(data: SweepData, variant: str | None) -> Card:
    """A card without a comparison: what is missing, and the numbers of one variant."""
    means = variant_means(data.table)
    named = means[means["variant"] == variant]
    rows = named if not named.empty else adapters(means)
    row = rows.iloc[0] if not rows.empty else full_row(means)
    return Card(
        sentence=shorten(nothing_to_compare(data.table), _SENTENCE_LENGTH),
        verdict="incomplete",
        judgement="Nothing to compare with yet",
        variant="" if row is None else str(row["variant"]),
        method="" if row is None else str(row["method"]),
        tiles=() if row is None else _absolute_tiles(data.table, row),
        pairs=(),
        facts=facts_of(data),
        origin=data.origin,
        origin_text=origin_words(data.table) or origin_label(data.origin),
        sweep_id=data.sweep_id,
    )


def _absolute_tiles(table: pd.DataFrame, row: pd.Series) -> tuple[Tile, ...]:
    def shown(key: str) -> str:
        return METRICS[key].format(float(row[key]))

    name = str(row["variant"])
    return (
        Tile(shown("trainable_share"), f"of the parameters trained by {shorten(name, 24)}",
             shown("trainable_params")),
        Tile(shown("net_peak_memory_bytes"), "memory while training",
             "full fine-tuning not measured"),
        Tile(shown("train_seconds"), "training time"),
        Tile(shown("adapter_bytes"), "to deliver"),
        Tile(shown("score_after"), _metric_name(table),
             _with_gain(f"untouched model {shown('score_before')}", table, row)),
    )  # fmt: skip
