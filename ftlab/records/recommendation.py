"""Which variant of a sweep to use, as far as its runs show it; used by page, report and commands.

A variant is a candidate unless another is shown to score higher, by intervals that hold for all
pairs at once (`ftlab.records.simultaneous`). Of the candidates the cheapest is recommended: what it
is to be cheap in is the reader's choice, for no score decides between them. The untouched model
takes part: where no variant is shown to score higher, none is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ftlab.basics.units import format_number, format_signed
from ftlab.basics.words import join_names, plural, rate_name, shorten, some_names
from ftlab.records.differences import FEWEST_EXAMPLES, Example, differences_of, examples_of
from ftlab.records.metrics import METRICS
from ftlab.records.simultaneous import LEVEL, Interval, Simultaneous

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Preference = Literal["memory", "time", "file", "score"]


@dataclass(frozen=True)
class Wish:
    """What decides where no score does: its name, the measure of which least is best ("" for the
    score), and how sentences speak of it."""

    words: str
    key: str
    most: str
    of_it: str = ""


WISHES: Mapping[Preference, Wish] = {
    "memory": Wish(
        "the least memory while training",
        "net_peak_memory_bytes",
        "needs the least memory while training",
        "the memory",
    ),
    "time": Wish(
        "the shortest training", "train_seconds", "takes the least time to train",
        "the training time",
    ),
    "file": Wish(
        "the smallest file", "adapter_bytes", "has the smallest file to deliver", "the file size"
    ),
    "score": Wish("the highest score, shown or not", "", "has the best mean, which shows nothing"),
}  # fmt: skip

Verdict = Literal["recommended", "not shown to differ", "shown to be worse"]


@dataclass(frozen=True)
class Standing:
    """A variant in the comparison. `score` is the measure that decided; `against` is that less the
    recommended variant's, or the best one's where none is recommended; `None` for that one itself.

    `costs` are ratios to it by measure; those that are not known are missing. `doubted` names those
    of them in which no difference is shown.
    """

    variant: str
    method: str
    learning_rate: float | None
    seeds: int
    score: Interval
    against: Interval | None
    verdict: Verdict
    costs: Mapping[str, float]
    doubted: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """`choice` is the recommended variant, `None` if there is none; `sentence` says why.

    `measure` is the column that decided, "" if nothing was compared. `standings` begins with the
    best. `details` are sentences on the other variants, `basis` what the intervals are.
    """

    sweep_id: str
    prefer: Preference
    measure: str
    choice: str | None
    sentence: str
    details: tuple[str, ...] = ()
    basis: str = ""
    standings: tuple[Standing, ...] = ()
    untouched: Interval | None = None

    @property
    def title(self) -> str:
        """As in "Which one to use: LoRA"."""
        return f"Which one to use: {shorten(self.choice, _NAME) if self.choice else 'not shown'}"

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Measure:
    """A measure that examples have: its keys in `samples.jsonl`, and the sign of a good one."""

    key: str
    after: str
    before: str
    sign: int
    higher: str
    lower: str
    digits: int

    def own(self, interval: Interval) -> Interval:
        """In its unit, of an interval where more is better."""
        if self.sign > 0:
            return interval
        return Interval(-interval.mean, -interval.high, -interval.low)

    def shown(self, own: Interval) -> str:
        """As in "0.52 (0.44 to 0.60)"."""
        mean, low, high = (format_number(n, self.digits) for n in (own.mean, own.low, own.high))
        return f"{mean} ({low} to {high})"

    def signed(self, own: Interval) -> str:
        """As in "+0.03, -0.04 to +0.10"."""
        mean, low, high = (format_signed(n, self.digits) for n in (own.mean, own.low, own.high))
        return f"{mean}, {low} to {high}"


_MEASURES = (
    _Measure("score_after", "score_after", "score_before", 1, "score higher", "score lower", 2),
    _Measure("eval_loss_after", "loss_after", "loss_before", -1, "have a lower test loss",
             "have a higher test loss", 3),
)  # fmt: skip

UNTOUCHED = "the untouched model"
_NAME = 60


def recommend(table: pd.DataFrame, prefer: Preference = "memory") -> Recommendation:
    """Returns what to use, from the runs of one sweep (columns of `ROW_KEYS`) that are done.

    The score decides; the test loss only where no run has a score or all scores are the same.
    """
    sweep_id = str(table["sweep_id"].iloc[0]) if len(table) else ""
    done = table[table["status"] == "done"]
    if done.empty:
        return Recommendation(sweep_id, prefer, "", None, "Nothing is recommended: no run is done.")
    whys = list[str]()
    for measure in _MEASURES:
        found = _compared(done, measure)
        if isinstance(found, _Compared):
            decision = _Decision(done, measure, found, prefer)
            return Recommendation(
                sweep_id,
                prefer,
                measure.key,
                None if decision.choice is None else found.names[decision.choice],
                decision.sentence,
                (*map(_sentence, whys), *decision.details, *found.left_out_words),
                decision.basis,
                decision.standings,
                found.untouched(measure),
            )
        whys.append(found)
    return Recommendation(sweep_id, prefer, "", None, f"Nothing is recommended: {whys[0]}.")


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."


@dataclass(frozen=True)
class _Compared:
    """The intervals of `names`, the last of which is the untouched model if it `has_base`."""

    names: tuple[str, ...]
    intervals: Simultaneous
    has_base: bool
    left_out: tuple[str, ...]

    @property
    def left_out_words(self) -> list[str]:
        names = some_names(list(self.left_out))
        return [f"Left out, as not all examples are scored: {names}."] if names else []

    def untouched(self, measure: _Measure) -> Interval | None:
        base = len(self.names) - 1
        return measure.own(self.intervals.mean(base)) if self.has_base else None


def _compared(done: pd.DataFrame, measure: _Measure) -> _Compared | str:
    """The variants with the same examples; the reason where they cannot be compared."""
    import numpy as np

    examples: dict[str, list[Mapping[Example, float]]] = {}
    for variant, folder in zip(done["variant"], done["run_dir"], strict=True):
        examples.setdefault(str(variant), []).append(examples_of(str(folder), measure.after))
    places = next((one[0].keys() for one in examples.values() if one[0]), None)
    if places is None:
        return f"no run has a {_noun(measure)} of each example"
    if len(places) < FEWEST_EXAMPLES:
        return (
            f"{plural(len(places), 'test example')} can show no difference; score "
            f"{FEWEST_EXAMPLES} or more"
        )
    same = {name: runs for name, runs in examples.items() if all(r.keys() == places for r in runs)}
    order = sorted(places)
    scores = [_array(runs, order, measure.sign) for runs in same.values()]
    base = _untouched(done, measure, order)
    names = (*same, UNTOUCHED) if base is not None else tuple(same)
    columns = [*scores, base] if base is not None else scores
    if len(columns) < 2:
        return "there is one variant, and nothing to compare it with"
    if all(np.array_equal(column, np.full_like(column, columns[0][0, 0])) for column in columns):
        value = format_number(measure.sign * float(columns[0][0, 0]), measure.digits)
        return (
            f"every variant has a {_noun(measure)} of {value} on every example, so it cannot say "
            "which is better"
        )
    fixed = frozenset({len(scores)}) if base is not None else frozenset[int]()
    left_out = tuple(name for name in examples if name not in same)
    return _Compared(names, Simultaneous(columns, fixed), base is not None, left_out)


def _noun(measure: _Measure) -> str:
    return METRICS[measure.key].name or METRICS[measure.key].label.lower()


def _array(
    runs: Sequence[Mapping[Example, float]], order: Sequence[Example], sign: int
) -> NDArray[np.float64]:
    """(seeds, examples); larger is better."""
    import numpy as np

    return sign * np.array([[run[place] for place in order] for run in runs])


def _untouched(
    done: pd.DataFrame, measure: _Measure, order: Sequence[Example]
) -> NDArray[np.float64] | None:
    """The untouched model, (1, examples), not quantised if there is a choice."""
    rows = done.sort_values("base_precision", key=lambda held: held != "", kind="stable")
    for folder in rows["run_dir"]:
        before = examples_of(str(folder), measure.before)
        if all(place in before for place in order):
            return _array([before], order, measure.sign)
    return None


@dataclass(frozen=True)
class _Decision:
    """Decides among the compared variants of the runs in `done`."""

    done: pd.DataFrame
    measure: _Measure
    found: _Compared
    prefer: Preference

    @cached_property
    def beaten(self) -> frozenset[int]:
        """Those that another is shown to beat."""
        every, difference = range(len(self.found.names)), self.found.intervals.difference
        return frozenset(
            at for at in every if any(difference(it, at).rises for it in every if it != at)
        )

    @property
    def trained(self) -> range:
        return range(len(self.found.names) - self.found.has_base)

    @property
    def candidates(self) -> list[int]:
        return [at for at in self.trained if at not in self.beaten]

    @cached_property
    def choice(self) -> int | None:
        """The candidate that costs least; of equal ones, or without that measure, the best."""
        untouched_holds = self.found.has_base and len(self.trained) not in self.beaten
        if untouched_holds or not self.candidates:
            return None
        return min(self.candidates, key=lambda at: (self._cost(at), -self._mean(at)))

    def _cost(self, at: int) -> float:
        key = WISHES[self.prefer].key
        value = float(self._rows(at)[key].mean()) if key else math.inf
        return math.inf if math.isnan(value) else value

    def _mean(self, at: int) -> float:
        return float(self.found.intervals.means[at])

    def _rows(self, at: int) -> pd.DataFrame:
        return self.done[self.done["variant"] == self.found.names[at]]

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The recommended variant, or else the best; then the others, the best first."""
        first = self.choice
        if first is None:
            first = max(self.trained, key=self._mean)
        order = sorted(self.trained, key=lambda at: (at != first, -self._mean(at)))
        return tuple(self._standing(at, first) for at in order)

    def _standing(self, at: int, first: int) -> Standing:
        names, intervals = self.found.names, self.found.intervals
        rows = self._rows(at)
        rates = rows["learning_rate"].dropna()
        keys = [wish.key for wish in WISHES.values() if wish.key]
        costs = {
            key: differences_of(self.done, key).between(names[at], names[first]) for key in keys
        }
        verdict: Verdict = "shown to be worse" if at in self.beaten else "not shown to differ"
        return Standing(
            names[at],
            str(rows["method"].iloc[0]),
            float(rates.iloc[0]) if len(rates) else None,
            len(rows),
            self.measure.own(intervals.mean(at)),
            None if at == first else self.measure.own(intervals.difference(at, first)),
            "recommended" if at == self.choice else verdict,
            {key: cost.ratio for key, cost in costs.items() if not math.isnan(cost.ratio)},
            tuple(key for key, cost in costs.items() if cost.shown is False),
        )

    @property
    def sentence(self) -> str:
        """As in "LoRA at 2e-3: 0.52 (0.44 to 0.60). Of the 3 variants that no other is shown to
        beat it needs the least memory while training."."""
        first, higher = self.standings[0], self.measure.higher
        own = f"{_named(first)}: {self.measure.shown(first.score)}."
        if self.choice is None:
            return (
                f"Nothing is recommended: no variant is shown to {higher} than {UNTOUCHED}. "
                f"The best is {own}"
            )
        few = len(self.candidates)
        if few == 1:
            others = "all other variants" if len(self.standings) > 1 else UNTOUCHED
            return f"{own} It is shown to {higher} than {others}."
        most = WISHES[self.prefer].most
        return f"{own} Of the {few} variants that no other is shown to beat it {most}."

    @property
    def details(self) -> list[str]:
        """A sentence for each variant that is not shown to differ, and one for all that are worse;
        none if nothing is recommended."""
        if self.choice is None:
            return []
        sentences, measure = list[str](), self.measure
        if self.found.has_base:
            gain = self.found.intervals.difference(self.choice, len(self.trained))
            sentences.append(f"Against {UNTOUCHED}: {measure.signed(measure.own(gain))}.")
        for one in self.standings[1:]:
            if one.against is not None and one.verdict == "not shown to differ":
                apart = f"is not shown to differ ({measure.signed(one.against)})"
                sentences.append(f"{_short(one)} {apart}{self._cost_words(one)}.")
        worse = [_short(one) for one in self.standings if one.verdict == "shown to be worse"]
        if worse:
            sentences.append(f"Shown to {measure.lower} than another: {join_names(worse)}.")
        return sentences

    def _cost_words(self, standing: Standing) -> str:
        wish = WISHES["memory" if self.prefer == "score" else self.prefer]
        ratio = standing.costs.get(wish.key)
        doubt = " (no difference shown)" if wish.key in standing.doubted else ""
        return "" if ratio is None else f", at {format_number(ratio, 2)}x {wish.of_it}{doubt}"

    @property
    def basis(self) -> str:
        """What the intervals are."""
        intervals, count = self.found.intervals, len(self.found.names)
        seeds = sorted({standing.seeds for standing in self.standings})
        each = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        recorded = "; how far seeds differ is taken from the recorded sweeps"
        return (
            f"Intervals of all {plural(count * (count - 1) // 2, 'difference')} between "
            f"{plural(count, 'model')} hold at once in {100 * LEVEL:.0f} of 100 sweeps, as do "
            f"those of all scores; paired over {plural(intervals.examples, 'example')}, {each} "
            f"{'seed' if seeds == [1] else 'seeds'}"
            f"{recorded if math.isinf(intervals.seeds.freedom) else ''}."
        )


def _short(standing: Standing) -> str:
    return shorten(standing.variant, _NAME)


def _named(standing: Standing) -> str:
    rate = standing.learning_rate
    return _short(standing) if rate is None else f"{_short(standing)} at {rate_name(rate)}"
