"""Which variant of a sweep to use, as far as its runs show it; used by page, report and commands.

A variant is a candidate if it is shown to score higher than the untouched model, and no variant is
shown to score higher than it, by intervals that hold for all pairs at once
(`ftlab.records.simultaneous`). No score decides between the candidates. Of those that are not shown
to cost more than the cheapest the one with the best mean is recommended; in what it is to be cheap
is the reader's choice. Without a candidate nothing is recommended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ftlab.basics.units import format_number, format_signed
from ftlab.basics.words import join_names, plural, rate_name, shorten, some_names
from ftlab.records.differences import (
    FEWEST_EXAMPLES,
    Differences,
    Example,
    differences_of,
    examples_of,
    scores_of,
)
from ftlab.records.metrics import METRICS
from ftlab.records.result import OPEN, status_label
from ftlab.records.seed_variance import (
    Seeds,
    SeedsSeen,
    SeedVariance,
    seed_variance,
    seeds_seen,
)
from ftlab.records.simultaneous import LEVEL, Interval, Simultaneous

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Preference = Literal["memory", "time", "file", "score"]


@dataclass(frozen=True)
class Criterion:
    """What decides where no score does: its name, the measure of which least is best ("" for the
    score), and how sentences speak of it."""

    words: str
    key: str
    to_cost_less: str
    of_it: str


CRITERIA: Mapping[Preference, Criterion] = {
    "memory": Criterion(
        "the least memory while training",
        "net_peak_memory_bytes",
        "to need less memory while training",
        "the memory",
    ),
    "time": Criterion(
        "the shortest training", "train_seconds", "to train faster", "the training time"
    ),
    "file": Criterion(
        "the smallest file", "adapter_bytes", "to have a smaller file", "the file size"
    ),
    "score": Criterion("the highest score, shown or not", "", "", ""),
}  # fmt: skip

Verdict = Literal["recommended", "not shown to differ", "not shown to help", "shown to be worse"]


@dataclass(frozen=True)
class Standing:
    """A variant in the comparison. `score` is the measure that decided; `against` is that less the
    first standing's, `None` for that one itself.

    `costs` are ratios to it by measure; those that are not known are missing. `doubted` names those
    of them in which no difference is shown. `unfinished` of the variant's runs ended without a
    result.
    """

    variant: str
    method: str
    learning_rate: float | None
    seeds: int
    unfinished: int
    score: Interval
    against: Interval | None
    verdict: Verdict
    costs: Mapping[str, float]
    doubted: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """`choice` is the recommended variant, `None` if there is none; `sentence` says why.

    `measure` is the column that decided, "" if nothing was compared. `standings` begins with the
    recommended variant, or else with the best. `details` are sentences on the others, `basis` says
    what the intervals are.
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
        return f"Which one to use: {_short(self.choice) if self.choice else 'none is recommended'}"

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """A measure that examples have: its keys in `samples.jsonl`, and the sign of a good one.

    `of_seeds` is how far runs' means differ by the seed, beyond what chance changes in single
    answers: pooled over the recorded sweeps and studies (a test computes it anew); for a loss it is
    relative to the square of the loss.
    """

    key: str
    after: str
    before: str
    sign: int
    of_seeds: SeedVariance
    higher: str
    lower: str
    digits: int

    def of_runs(self, folders: Sequence[str]) -> NDArray[np.float64] | None:
        """(runs, examples), a loss by tokens; `None` unless all scored the same examples."""
        return scores_of(folders, self.after, by_tokens=self.sign < 0)

    def seeds_seen(
        self, scores: Sequence[NDArray[np.float64]], seeds: Sequence[Seeds]
    ) -> SeedsSeen | None:
        """How far runs differ by their seeds, as `of_seeds` has it; `None` if that is not known."""
        if len(scores) < 2:
            return None
        level = sum(float(runs.mean()) for runs in scores) / len(scores)
        return seeds_seen(scores, seeds, 1.0 if self.sign > 0 else level)

    def of_seeds_at(self, level: float) -> SeedVariance:
        """`of_seeds` where the mean is `level`."""
        return self.of_seeds if self.sign > 0 else self.of_seeds.times(level**2)

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

    @property
    def noun(self) -> str:
        return METRICS[self.key].name or METRICS[self.key].label.lower()


MEASURES = (
    Measure("score_after", "score_after", "score_before", 1, SeedVariance(0.00002, 0.00040),
             "score higher", "score lower", 2),
    Measure("eval_loss_after", "loss_after", "loss_before", -1, SeedVariance(0.0196, 0.0075),
             "have a lower test loss", "have a higher test loss", 3),
)  # fmt: skip

UNTOUCHED = "the untouched model"
_NAME = 60
_MOST_SENTENCES = 8
_LARGEST = 1e6  # a mean of larger losses says nothing


def recommend(table: pd.DataFrame, prefer: Preference = "memory") -> Recommendation:
    """Returns what to use, from the runs of one sweep (columns of `ROW_KEYS`) that are done.

    The score decides; the test loss only where no run has a score or all scores are the same.
    """
    return recommendations(table, [prefer])[prefer]


def recommendations(
    table: pd.DataFrame, preferences: Iterable[Preference]
) -> dict[Preference, Recommendation]:
    """Returns what to use for each of the preferences; the intervals are computed once."""
    sweep_id = str(table["sweep_id"].iloc[0]) if len(table) else ""
    whys = [] if (table["status"] == "done").any() else ["no run is done"]
    for measure in () if whys else MEASURES:
        found = _compared(table, measure)
        if isinstance(found, _Compared):
            reasons = tuple(f"{why[0].upper()}{why[1:]}." for why in whys)
            return {one: _Decision(found, one).made(sweep_id, reasons) for one in preferences}
        whys.append(found)
    words = f"Nothing is recommended: {whys[0]}."
    return {one: Recommendation(sweep_id, one, "", None, words) for one in preferences}


@dataclass(frozen=True)
class _Compared:
    """The runs of one sweep that scored the same examples; `seeds` of each variant.

    `base` is the precision of the untouched model, "" if not quantised, `None` if it was not
    compared; it is the last of the intervals. `left_out` are sentences.
    """

    table: pd.DataFrame
    measure: Measure
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    intervals: Simultaneous
    base: str | None
    left_out: tuple[str, ...]

    @property
    def untouched(self) -> str:
        return f"{UNTOUCHED} in {self.base}" if self.base else UNTOUCHED

    @cached_property
    def beaten(self) -> frozenset[int]:
        """Those that another is shown to beat; the untouched model is one past the variants."""
        every, difference = range(len(self.intervals.means)), self.intervals.difference
        return frozenset(
            at for at in every if any(difference(it, at).rises for it in every if it != at)
        )

    @cached_property
    def candidates(self) -> list[int]:
        unbeaten = [at for at in range(len(self.variants)) if at not in self.beaten]
        if self.base is None:
            return unbeaten
        base = len(self.variants)
        return [at for at in unbeaten if self.intervals.difference(at, base).rises]

    def rows(self, at: int) -> pd.DataFrame:
        return self._by_variant[self.variants[at]]

    @cached_property
    def _by_variant(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.done.groupby("variant", sort=False)}

    @cached_property
    def done(self) -> pd.DataFrame:
        return self.table[self.table["status"] == "done"]

    @cached_property
    def unfinished(self) -> Counter[str]:
        """How many runs of each variant ended without a result."""
        is_open = self.table["status"].isin([*OPEN, "done"])
        return Counter(map(str, self.table["variant"][~is_open]))

    @cached_property
    def costs(self) -> Mapping[str, Differences]:
        """The differences in each measure of `CRITERIA`."""
        keys = [criterion.key for criterion in CRITERIA.values() if criterion.key]
        return {key: differences_of(self.done, key) for key in keys}

    def mean(self, at: int) -> float:
        return float(self.intervals.means[at])


def _compared(table: pd.DataFrame, measure: Measure) -> _Compared | str:
    """The runs that can be compared; the reason if there are none."""
    import numpy as np

    done = table[table["status"] == "done"]
    examples: dict[str, dict[int, Mapping[Example, float]]] = {}
    for variant, seed, folder in zip(done["variant"], done["seed"], done["run_dir"], strict=True):
        of_seed = examples_of(str(folder), measure.after)
        examples.setdefault(str(variant), {})[int(seed)] = of_seed
    places = _most_common({name: list(runs.values()) for name, runs in examples.items()})
    if not places:
        return f"no run has a {measure.noun} of each example"
    if len(places) < FEWEST_EXAMPLES:
        return (
            f"{plural(len(places), 'test example')} can show no difference; score "
            f"{FEWEST_EXAMPLES} or more"
        )
    own = {
        name: {seed: run for seed, run in runs.items() if run.keys() == places}
        for name, runs in examples.items()
    }
    same = {name: runs for name, runs in own.items() if runs}
    order = sorted(places)
    weights = _weights(done, order) if measure.sign < 0 else np.ones(len(order))
    columns = [
        measure.sign * weights * _array(list(runs.values()), order) for runs in same.values()
    ]
    seeds = [tuple(runs) for runs in same.values()]
    trained = len(columns)
    base, precision = _untouched(done, measure, order)
    if base is not None:
        columns.append(measure.sign * weights * base)
    if len(columns) < 2:
        return "there is one variant, and nothing to compare it with"
    if max(float(abs(column).max()) for column in columns) > _LARGEST:
        return f"a {measure.noun} is above {_LARGEST:,.0f}, so means say nothing"
    values = [float(column[0, 0]) for column in columns]
    if len(set(values)) == 1 and all((column == values[0]).all() for column in columns):
        value = format_number(measure.sign * values[0], measure.digits)
        return (
            f"every variant has a {measure.noun} of {value} on every example, so it cannot say "
            "which is better"
        )
    level = float(np.mean([column.mean() for column in columns]))
    of_seeds = seed_variance(columns[:trained], seeds, measure.of_seeds_at(level))
    fixed = frozenset(range(trained, len(columns)))
    left_out = [
        f"{plural(len(runs) - len(own[name]), 'run')} of {_short(name)} left out: other examples "
        "were scored."
        for name, runs in examples.items()
        if len(own[name]) < len(runs)
    ]
    if base is None:
        left_out.append("The untouched model is not compared: its answers are not known.")
    intervals = Simultaneous(columns, [*seeds, *[(0,)] * len(fixed)], of_seeds, fixed)
    counts = tuple(map(len, seeds))
    return _Compared(table, measure, tuple(same), counts, intervals, precision, tuple(left_out))


def _most_common(examples: Mapping[str, Sequence[Mapping[Example, float]]]) -> frozenset[Example]:
    """The examples that most variants scored; of as many, the larger number of them."""
    sets = [{frozenset(run) for run in runs if run} for runs in examples.values()]
    counts = Counter(places for one in sets for places in one)
    return max(counts, key=lambda places: (counts[places], len(places)), default=frozenset())


def _weights(done: pd.DataFrame, order: Sequence[Example]) -> NDArray[np.float64]:
    """Of each example in a test loss, which is a mean over tokens; 1 where they are not known."""
    import numpy as np

    for folder in done["run_dir"]:
        tokens = examples_of(str(folder), "tokens")
        if all(tokens.get(place, 0) > 0 for place in order):
            found = np.array([tokens[place] for place in order])
            weights: NDArray[np.float64] = found / found.mean()
            return weights
    return np.ones(len(order))


def _array(
    runs: Sequence[Mapping[Example, float]], order: Sequence[Example]
) -> NDArray[np.float64]:
    """(seeds, examples)."""
    import numpy as np

    return np.array([[run[place] for place in order] for run in runs])


def _untouched(
    done: pd.DataFrame, measure: Measure, order: Sequence[Example]
) -> tuple[NDArray[np.float64] | None, str | None]:
    """The untouched model, (1, examples), and its precision: not quantised if there is a choice."""
    rows = done.sort_values("base_precision", key=lambda held: held != "", kind="stable")
    for folder, precision in zip(rows["run_dir"], rows["base_precision"], strict=True):
        before = examples_of(str(folder), measure.before)
        if all(place in before for place in order):
            return _array([before], order), str(precision)
    return None, None


@dataclass(frozen=True)
class _Decision:
    """Decides among the compared variants."""

    found: _Compared
    prefer: Preference

    def made(self, sweep_id: str, reasons: tuple[str, ...]) -> Recommendation:
        """`reasons` are sentences on measures that could not decide."""
        found = self.found
        untouched = found.intervals.mean(len(found.variants)) if found.base is not None else None
        return Recommendation(
            sweep_id,
            self.prefer,
            found.measure.key,
            None if self.choice is None else found.variants[self.choice],
            self.sentence,
            (*reasons, *self.details, *found.left_out, *self._unfinished()),
            self.basis,
            self.standings,
            None if untouched is None else found.measure.own(untouched),
        )

    @cached_property
    def choice(self) -> int | None:
        """Of the candidates that are not shown to cost more than the cheapest, the best mean."""
        candidates, key = self.found.candidates, CRITERIA[self.prefer].key
        costs = {at: float(self.found.rows(at)[key].mean()) for at in candidates} if key else {}
        known = [at for at, cost in costs.items() if not math.isnan(cost)]
        if known:
            names, between = self.found.variants, self.found.costs[key].between
            least = min(known, key=costs.__getitem__)
            candidates = [
                at for at in known
                if at == least or between(names[at], names[least]).shown is False
            ]  # fmt: skip
        return max(candidates, key=self.found.mean, default=None)

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The recommended variant, or else the best; then the others, the best first."""
        trained = range(len(self.found.variants))
        first = max(trained, key=self.found.mean) if self.choice is None else self.choice
        order = sorted(trained, key=lambda at: (at != first, -self.found.mean(at)))
        return tuple(self._standing(at, first) for at in order)

    def _standing(self, at: int, first: int) -> Standing:
        found, own = self.found, self.found.measure.own
        names, rows = found.variants, found.rows(at)
        rates = rows["learning_rate"].dropna()
        costs = {
            key: differences.between(names[at], names[first])
            for key, differences in found.costs.items()
            if at != first
        }
        return Standing(
            names[at],
            str(rows["method"].iloc[0]),
            float(rates.iloc[0]) if len(rates) else None,
            found.seeds[at],
            found.unfinished[names[at]],
            own(found.intervals.mean(at)),
            None if at == first else own(found.intervals.difference(at, first)),
            self._verdict(at),
            {key: cost.ratio for key, cost in costs.items() if not math.isnan(cost.ratio)},
            tuple(key for key, cost in costs.items() if cost.shown is False),
        )

    def _verdict(self, at: int) -> Verdict:
        if at == self.choice:
            return "recommended"
        if at in self.found.beaten:
            return "shown to be worse"
        return "not shown to differ" if at in self.found.candidates else "not shown to help"

    @property
    def sentence(self) -> str:
        """As in "LoRA at 2e-3: 0.52 (0.44 to 0.60). Of the 3 variants that are shown to score
        higher than the untouched model, and that no other is shown to beat, none is shown to need
        less memory while training."."""
        found, first = self.found, self.standings[0]
        measure, base = found.measure, len(found.variants)
        own = f"{_named(first)}: {measure.shown(first.score)}."
        if self.choice is None:
            better = found.intervals.difference
            worse = all(better(base, at).rises for at in range(base))
            what = (
                f"all variants are shown to {measure.lower}"
                if worse
                else f"no variant is shown to {measure.higher}"
            )
            return f"Nothing is recommended: {what} than {found.untouched}. The best is {own}"
        helps = f"shown to {measure.higher} than {found.untouched}"
        few, others = len(found.candidates), [one.verdict for one in self.standings[1:]]
        if few == 1:
            if others and set(others) == {"shown to be worse"}:
                return f"{own} It is shown to {measure.higher} than all other variants."
            return f"{own} It is the only variant that is {helps}."
        which = f" that are {helps}, and" if found.base is not None else ""
        return f"{own} Of the {few} variants{which} that no other is shown to beat, {self._why()}."

    def _why(self) -> str:
        """Why this one of the candidates."""
        criterion = CRITERIA[self.prefer]
        if not criterion.key:
            return "it has the best mean, which shows nothing"
        if self.found.done[criterion.key].isna().all():
            return f"it has the best mean: {METRICS[criterion.key].label.lower()} was not measured"
        return f"none is shown {criterion.to_cost_less}"

    @property
    def details(self) -> list[str]:
        """Sentences on what the first standing gains, and on the others."""
        found, measure, first = self.found, self.found.measure, self.standings[0]
        sentences = []
        if found.base is not None:
            at = found.variants.index(first.variant)
            gain = measure.own(found.intervals.difference(at, len(found.variants)))
            whose = "" if self.choice is not None else f"{_short(first.variant)} against "
            words = f"{whose or 'Against '}{found.untouched}: {measure.signed(gain)}."
            sentences.append(f"{words[0].upper()}{words[1:]}")
        if self.choice is None:
            return sentences
        alike = self._with("not shown to differ")
        for one in alike[:_MOST_SENTENCES]:
            assert one.against is not None
            apart = f"is not shown to differ ({measure.signed(one.against)})"
            sentences.append(f"{_short(one.variant)} {apart}{self._cost_words(one)}.")
        rest = [_short(one.variant) for one in alike[_MOST_SENTENCES:]]
        if rest:
            sentences.append(f"Not shown to differ either: {some_names(rest)}.")
        for verdict, words in (
            ("not shown to help", f"Not shown to {measure.higher} than {found.untouched}"),
            ("shown to be worse", f"Shown to {measure.lower} than another"),
        ):
            names = [_short(one.variant) for one in self._with(verdict)]
            if names:
                sentences.append(f"{words}: {some_names(names)}.")
        return sentences

    def _with(self, verdict: str) -> list[Standing]:
        return [one for one in self.standings if one.verdict == verdict]

    def _cost_words(self, standing: Standing) -> str:
        criterion = CRITERIA["memory" if self.prefer == "score" else self.prefer]
        ratio = standing.costs.get(criterion.key)
        doubt = " (no difference shown)" if criterion.key in standing.doubted else ""
        return "" if ratio is None else f", at {format_number(ratio, 2)}x {criterion.of_it}{doubt}"

    def _unfinished(self) -> list[str]:
        """A sentence on runs without a result: a variant that fails often is not what it seems."""
        table, missing = self.found.table, self.found.unfinished
        if not missing:
            return []
        counts = Counter(map(str, table["variant"]))
        each = [f"{count} of {counts[name]} of {_short(name)}" for name, count in missing.items()]
        statuses = {str(status) for status in table["status"]} - {*OPEN, "done"}
        kinds = join_names(sorted(status_label(status) for status in statuses))
        return [f"Runs without a result ({kinds}): {some_names(each)}."]

    @property
    def basis(self) -> str:
        """What the intervals are."""
        intervals = self.found.intervals
        count = len(intervals.means)
        seeds = sorted({standing.seeds for standing in self.standings})
        each = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        recorded = "; how far seeds differ is taken from recorded runs"
        return (
            f"The intervals of {plural(count * (count - 1) // 2, 'difference')} between "
            f"{plural(count, 'model')} hold at once in {100 * LEVEL:.0f} of 100 sweeps, as do "
            f"those of all scores; paired over {plural(intervals.examples, 'example')} and {each} "
            f"{'seed' if seeds == [1] else 'seeds'}"
            f"{recorded if intervals.of_seeds.is_of_others else ''}."
        )


def _short(name: str) -> str:
    return shorten(name, _NAME)


def _named(standing: Standing) -> str:
    rate, name = standing.learning_rate, _short(standing.variant)
    is_named = rate is None or f"lr={rate:g}" in standing.variant
    return name if is_named else f"{name} at {rate_name(rate)}"
