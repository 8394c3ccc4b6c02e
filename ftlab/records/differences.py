"""Decides whether two variants of a sweep differ in a measure; used by page, report and card.

Counted measures (`EXACT`) have no variance: any two different values are a difference.

Times, rates and peak memory vary between runs of one spec, which differ only in the seed. A ratio
of two means over n and m runs counts as a difference if it, or its inverse, is larger than

    exp(t s sqrt(1 / n + 1 / m))

Here s is the standard deviation of the logarithm within a variant, pooled over the variants of the
sweep (so on its machine), and t is the 97.5 % point of Student's t for its degrees of freedom. This
is the least significant difference (Fisher 1935, The Design of Experiments). For two single runs
and a known s it is the repeatability limit 2.8 s of ISO 5725-6: two runs of one spec lie within it
in 95 of 100 cases. A sweep with fewer than `FEWEST_FREEDOM` degrees of freedom gives no good s;
the s of the recorded sweeps, `RECORDED_SPREAD`, is used instead.

Scores and losses are compared example by example. A mean difference over the test examples that
both variants answered counts if its 95 % bootstrap interval excludes zero. This test has the most
power of those available: it removes the difficulty of each example, and it works for a single run.
Without the examples (imported results, old runs) the seeds decide; for single runs the outcome is
then unknown.

In all cases, variants with two or more seeds each whose values overlap show no difference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any, Literal

from ftlab.basics.units import format_signed
from ftlab.basics.words import rate_name
from ftlab.records.metrics import METRICS
from ftlab.records.run import RunDirectory

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


RESAMPLES = 10_000


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    level: float = 0.95,
    weights: Sequence[float] | None = None,
) -> tuple[float, float, float]:
    """`(mean, low, high)` of the gain `after - before`, paired by example.

    A percentile bootstrap over the examples (Efron & Tibshirani 1993, chapter 13) with a fixed
    seed, so the same numbers give the same interval. With `weights` (such as the number of tokens)
    each mean is weighted. Raises `ValueError` for different lengths or fewer than two examples.
    """
    import numpy as np

    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"{len(before)} and {len(after)} examples cannot be paired")
    gains = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    shares = np.ones(len(gains)) if weights is None else np.asarray(weights, dtype=float)
    if len(shares) != len(gains):
        raise ValueError(f"{len(shares)} weights do not go with {len(gains)} examples")
    picks = np.random.default_rng(0).integers(0, len(gains), (RESAMPLES, len(gains)))
    means = (gains * shares)[picks].sum(axis=1) / shares[picks].sum(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float((gains * shares).sum() / shares.sum()), float(low), float(high)


def student_quantile(freedom: float) -> float:
    """The 97.5 % point of Student's t; `freedom` is 4 or more, or infinite (normal distribution).

    Abramowitz & Stegun 1964, 26.7.5: an expansion in 1 / freedom, accurate to 0.01 from 4 on.
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def wilson_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """`(low, high)` of a proportion, within [0, 1]; (0, 1) without a trial.

    The score interval of Wilson 1927 ("Probable inference, the law of succession, and statistical
    inference", JASA 22, pages 209-212), without continuity correction: the proportions p for which
    |successes / trials - p| <= z sqrt(p (1 - p) / trials). `successes` may be fractional: a tie
    counts as half a success. Raises `ValueError` if `successes` is not within 0 to `trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no share")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """The probability of at least `successes` in independent trials with that `probability`."""
    return math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(successes, trials + 1)
    )


EXACT = frozenset(key for key, metric in METRICS.items() if metric.is_counted)
"""Measures that are counted: one run is enough."""

RECORDED_SPREAD = {
    "train_seconds": 0.107,
    "tokens_per_second": 0.106,
    "net_peak_memory_bytes": 0.0141,
    "peak_memory_bytes": 0.0080,
}
"""s of each measure that varies, by `pooled_spread` over the 16 variants with three seeds in
`assets/recorded`, on two cores of a shared machine. Two single runs differ by up to 35 % in
training time and 4 % in net peak memory."""

RULE = (
    "shown where counts are not the same; where times, rates or memory differ by more than runs of "
    "one spec do (95 %, by the sweep's own repeats, else by the recorded sweeps, where two runs "
    "differ by up to 35 % in time and 4 % in memory); where the 95 % interval of scores "
    "or losses, paired by example, excludes zero; never where repeats overlap"
)
"""The rule as text to show, as in "A difference is ..."."""

FEWEST_FREEDOM = 4
FEWEST_EXAMPLES = 10
"""With fewer examples no difference is claimed: the bootstrap interval is too narrow."""

_PER_EXAMPLE = {"score_after": "score_after", "eval_loss_after": "loss_after"}
"""Measure of a run -> key of the value per example in `samples.jsonl`."""

Outcome = Literal["better", "worse", "even", "unknown"]

Example = tuple[int, int]
"""Number, and hash of prompt and reference answer; two examples are equal if both are."""


@dataclass(frozen=True)
class PairedDifference:
    """After minus before (or one variant minus another), paired: mean and 95 % interval."""

    mean: float
    low: float
    high: float
    examples: int

    @property
    def rises(self) -> bool:
        """Whether the mean is significantly above zero."""
        return self.examples >= FEWEST_EXAMPLES and self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the mean is significantly below zero."""
        return self.examples >= FEWEST_EXAMPLES and self.high < 0

    @property
    def is_shown(self) -> bool:
        return self.rises or self.falls

    def measures(self, key: str) -> dict[str, float]:
        """The fields of `Measures`: `key`, `key_low` and `key_high`."""
        return {key: self.mean, f"{key}_low": self.low, f"{key}_high": self.high}


def paired_difference(
    before: Sequence[Any], after: Sequence[Any], tokens: Sequence[int] | None = None
) -> PairedDifference | None:
    """The difference paired by example; `None` if a value is missing or there are fewer than two.

    With `tokens` (one count per example) the means are over all tokens.
    """
    if len(before) != len(after) or len(before) < 2:
        return None
    if not all(map(_is_number, (*before, *after))):
        return None
    return PairedDifference(*paired_interval(before, after, weights=tokens), len(before))


@dataclass(frozen=True)
class Difference:
    """A variant compared with another in the measure `key`: means of `runs` and `other_runs` runs.

    `shown` is `None` if the spread is unknown. `why` is the reason if no difference is shown.
    """

    key: str
    value: float
    other: float
    runs: int
    other_runs: int
    shown: bool | None
    why: str = ""

    @property
    def ratio(self) -> float:
        """`value / other`; NaN if `other` is not above zero."""
        return self.value / self.other if self.other > 0 else math.nan

    @property
    def outcome(self) -> Outcome:
        """What may be claimed about the variant."""
        if self.shown is None:
            return "unknown"
        if not self.shown:
            return "even"
        more_is_better = METRICS[self.key].better == "more"
        return "better" if (self.value > self.other) == more_is_better else "worse"

    @property
    def doubt(self) -> str:
        """As in "no difference shown (their repeats overlap)"; "" if there is no doubt."""
        is_doubted = self.shown is False and self.key not in EXACT
        return f"no difference shown ({self.why})" if is_doubted else ""


@dataclass(frozen=True)
class Spread:
    """`deviation` is the standard deviation of the logarithm; `freedom` its degrees of freedom."""

    deviation: float
    freedom: float

    def limit(self, runs: int, other_runs: int) -> float:
        """The ratio (above 1) up to which two means over so many runs count as equal."""
        error = self.deviation * math.sqrt(1 / runs + 1 / other_runs)
        return math.exp(student_quantile(self.freedom) * error)


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """The spread within groups of values, each from runs of one spec; values are above zero."""
    squares, freedom = 0.0, 0
    for values in groups:
        logs = [math.log(value) for value in values]
        squares += sum((log - fmean(logs)) ** 2 for log in logs)
        freedom += max(0, len(logs) - 1)
    return Spread(math.sqrt(squares / freedom) if freedom else 0.0, freedom)


@dataclass(frozen=True)
class Differences:
    """Compares the variants of one sweep in the measure `key`; created by `differences_of`.

    `runs` has (value, run folder) of each run by variant; the folder is "" for imported results.
    """

    key: str
    runs: Mapping[str, Sequence[tuple[float, str]]]
    _read: dict[str, Mapping[Example, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def between(self, variant: str, other: str) -> Difference:
        """The variant compared with the other; a value that was not measured is NaN."""
        own, theirs = ([value for value, _ in self.runs.get(v, ())] for v in (variant, other))
        if own and theirs:
            shown, why = self._by_values(own, theirs)
        else:
            shown, why = None, "not measured for both"
        paired = None if shown is False else self.paired(variant, other)
        if paired is not None:
            shown = paired.is_shown
            why = "" if shown else _interval_words(self.key, paired)
        return Difference(self.key, _mean(own), _mean(theirs), len(own), len(theirs), shown, why)

    def paired(self, variant: str, other: str) -> PairedDifference | None:
        """Paired by test example; `None` unless both answered the same ones, and enough."""
        own, theirs = self._examples(variant), self._examples(other)
        if own.keys() != theirs.keys() or len(own) < FEWEST_EXAMPLES:
            return None
        places = sorted(own)
        return paired_difference([theirs[at] for at in places], [own[at] for at in places])

    def _by_values(self, own: Sequence[float], theirs: Sequence[float]) -> tuple[bool | None, str]:
        """Whether means and seeds alone show a difference, and if not, the reason."""
        several = min(len(own), len(theirs)) > 1
        apart = max(own) < min(theirs) or max(theirs) < min(own)
        if self.key in EXACT:
            return apart, "" if apart else "the same is counted"
        if several and not apart:
            return False, "their repeats overlap"
        if self.key in RECORDED_SPREAD:
            return self._beyond_repeats(own, theirs)
        return (
            (True, "")
            if several
            else (None, "each was run once: how far repeats differ is not known")
        )

    def _beyond_repeats(
        self, own: Sequence[float], theirs: Sequence[float]
    ) -> tuple[bool | None, str]:
        """Whether the means differ by more than runs of one spec do, and if not, the reason."""
        if min(_mean(own), _mean(theirs)) <= 0:
            return None, "a mean is not above zero"
        limit = self.spread.limit(len(own), len(theirs))
        ratio = _mean(own) / _mean(theirs)
        if max(ratio, 1 / ratio) > limit:
            return True, ""
        is_own = self.spread.freedom < math.inf
        where = "in this sweep" if is_own else "in the recorded sweeps"
        return False, f"{_counts(len(own), len(theirs))} {_percent(limit)} {where}"

    @cached_property
    def spread(self) -> Spread:
        """The spread of the sweep's own repeats, or of the recordings if there are too few."""
        values = [[value for value, _ in runs] for runs in self.runs.values()]
        found = pooled_spread(group for group in values if min(group) > 0)
        if found.freedom < FEWEST_FREEDOM:
            return Spread(RECORDED_SPREAD[self.key], math.inf)
        return found

    def _examples(self, variant: str) -> Mapping[Example, float]:
        """The mean over the seeds, by example; empty unless all seeds have the same examples."""
        if variant not in self._read:
            key = _PER_EXAMPLE.get(self.key)
            each = [examples_of(run_dir, key) for _, run_dir in self.runs.get(variant, ()) if key]
            same = bool(each) and all(one.keys() == each[0].keys() for one in each)
            self._read[variant] = (
                {at: _mean([one[at] for one in each]) for at in each[0]} if same else {}
            )
        return self._read[variant]


def differences_of(table: pd.DataFrame, key: str) -> Differences:
    """Differences between the runs of one sweep that are done and have the measure.

    `table` has the columns of `ROW_KEYS`.
    """
    runs: dict[str, list[tuple[float, str]]] = {}
    columns = (table[name].tolist() for name in ("status", "variant", key, "run_dir"))
    for status, variant, value, run_dir in zip(*columns, strict=True):
        if status == "done" and _is_number(value):
            runs.setdefault(str(variant), []).append((float(value), str(run_dir)))
    return Differences(key, runs)


def examples_of(run_dir: str, key: str) -> Mapping[Example, float]:
    """Example -> value; empty if a value is missing or the file cannot be read."""
    if not run_dir:
        return {}
    samples = RunDirectory(Path(run_dir)).samples_file
    try:
        stat = samples.stat()
        return _read_examples(run_dir, key, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return {}


def scores_of(
    folders: Sequence[str], key: str, by_tokens: bool = False
) -> NDArray[np.float64] | None:
    """(runs, examples) of values in `samples.jsonl`; `None` unless all scored the same examples.

    With `by_tokens` each example is weighted so that the mean over examples is one over tokens.
    """
    import numpy as np

    each = [examples_of(folder, key) for folder in folders]
    if not each or not each[0] or any(one.keys() != each[0].keys() for one in each):
        return None
    order = sorted(each[0])
    values = np.array([[one[place] for place in order] for one in each])
    tokens = examples_of(folders[0], "tokens") if by_tokens else {}
    if all(tokens.get(place, 0) > 0 for place in order):
        counts = np.array([tokens[place] for place in order])
        values = values * (counts / counts.mean())
    return values


@lru_cache(maxsize=512)  # each redraw of a chart asks for all runs of the sweep again
def _read_examples(run_dir: str, key: str, _changed: int, _size: int) -> Mapping[Example, float]:
    rows = RunDirectory(Path(run_dir)).samples()
    values = [row.get(key) for row in rows]
    if not all(map(_is_number, values)):
        return {}
    return {
        (number, hash((str(row.get("prompt")), str(row.get("reference"))))): float(row[key])
        for number, row in enumerate(rows)
    }


def _interval_words(key: str, paired: PairedDifference) -> str:
    digits = 3 if "loss" in key else 2
    low, high = format_signed(paired.low, digits), format_signed(paired.high, digits)
    return f"95 % interval {low} to {high} over {paired.examples} examples"


def _counts(runs: int, other_runs: int) -> str:
    """The numbers of runs, as the start of "... differ by up to"."""
    if runs == other_runs == 1:
        return "1 run each; two runs of one spec differ by up to"
    each = f"{runs} runs each" if runs == other_runs else f"{runs} against {other_runs} runs"
    return f"{each}; means of so many runs of one spec differ by up to"


def _percent(limit: float) -> str:
    percent = 100 * (limit - 1)
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


Row = Mapping[str, Any]


def mean_of(values: Sequence[Any], weights: Sequence[float] | None = None) -> float | None:
    """The (weighted) mean; `None` if a value is missing or there are no values."""
    return fmean(values, weights) if values and all(map(_is_number, values)) else None


def why_score_fell(
    score: PairedDifference,
    loss: PairedDifference | None,
    general: PairedDifference | None,
    rows: Sequence[Row],
    learning_rate: float | None,
) -> str:
    """Explains a score that is significantly below the base model's score.

    `rows` are those of samples.jsonl. The text describes which answers got worse and how, how the
    losses changed, and the likely cause.
    """
    worse = [row for row in rows if row["score_after"] < row["score_before"]]
    better = sum(row["score_after"] > row["score_before"] for row in rows)
    sentence = (
        f"The score fell by {-score.mean:.2f} (95 % interval {-score.high:.2f} to "
        f"{-score.low:.2f}) against the untouched model: {len(worse)} of {len(rows)} answers got "
        f"worse and {better} better{_what_became(worse)}."
    )
    return f"{sentence} {_what_losses_say(loss, general, learning_rate)}"


def _what_became(worse: Sequence[Row]) -> str:
    """As in "; 5 of the worse ones are empty"; "" if most of them have nothing in common."""
    empty = sum(not str(row.get("answer_after") or "").strip() for row in worse)
    verdicts = Counter(str(row.get("verdict_after") or "") for row in worse)
    del verdicts[""]
    if 2 * empty > len(worse):
        return f"; {empty} of the worse ones are empty"
    for words, count in verdicts.most_common(1):
        if 2 * count > len(worse):
            return f"; {count} of the worse ones: {words}"
    return ""


def _what_losses_say(
    loss: PairedDifference | None, general: PairedDifference | None, learning_rate: float | None
) -> str:
    seen = []
    if loss is not None and loss.rises:
        seen.append(f"the test loss rose by {loss.mean:.2f}")
    elif loss is not None and loss.falls:
        seen.append(f"the test loss fell by {-loss.mean:.2f} nonetheless")
    elif loss is not None:
        seen.append("the test loss shows no change")
    if general is not None and general.rises:
        seen.append(f"the loss on unrelated text rose by {general.mean:.2f}")
    if not seen:
        return "No loss is known that would say why."
    sentence = " and ".join(seen)
    rate = f"learning rate ({rate_name(learning_rate)})"
    cause = f"likely too few steps, or too low a {rate}"
    if loss is not None and loss.falls:
        cause = (
            "the wanted answers became more likely, but not so likely that it writes them by "
            "itself; more steps may help"
        )
    elif (loss is not None and loss.rises) or (general is not None and general.rises):
        cause = f"the {rate} is likely too high, or the steps are too many"
    return f"{sentence[:1].upper()}{sentence[1:]}: {cause}."


def score_against_whole(precision: str, score: PairedDifference | None) -> str:
    """The sentence that tells what a run with a quantised base is compared with.

    `score` is the change against the unquantised base; `None` if the sweep has no such base run.
    """
    before = f"Before is the untouched model in {precision}, as this run has it."
    if score is None:
        return f"{before} The sweep has no run of it that is not quantised to compare with."
    return (
        f"{before} Against the one that is not quantised the score changed by "
        f"{format_signed(score.mean)} (95 % interval {format_signed(score.low)} to "
        f"{format_signed(score.high)})."
    )
