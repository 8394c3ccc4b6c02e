"""Claims of papers, tried on the small model: what is run, each estimate, and its verdict.

What is run and what counts as seen is fixed in `assets/studies/claims.json`, which was committed
before the runs. `python -m ftlab.maintain claims` makes them.

Each claim has one estimate or more, with a 95 % interval, and the band of values that agree with
the claim. The claim is seen if all intervals lie within their bands, not seen if one lies outside,
and cannot be seen at this size otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, read_record, write_atomically
from ftlab.basics.units import format_number
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.reference import parse_model
from ftlab.records.recommendation import MEASURES, Measure
from ftlab.records.result import measured_with
from ftlab.records.seed_variance import Seeds, SeedsSeen, seed_variance
from ftlab.records.simultaneous import Interval, Simultaneous
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run
from ftlab.settings.training import EvalSplit, TrainingSettings
from ftlab.tasks.reference import parse_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Losses = NDArray[np.float64]
    Rungs = tuple[Sequence[float], Sequence[Losses]]  # rates, and the losses at each

Verdict = Literal["seen", "not seen", "cannot be seen at this size"]
Kind = Literal["rate ratio", "loss", "forgetting", "largest score difference", "gap ratio"]

RATIOS: frozenset[Kind] = frozenset({"rate ratio"})
"""Kinds of estimates that are above zero, for logarithmic axes."""

_TO_TRY = 100  # test examples of a person's own try
_TAILS = (2.5, 97.5)
_SCORE, _LOSS = MEASURES


@dataclass(frozen=True)
class Arm:
    """A variant of a sweep: with a ladder of `rates`, or at the best rate of the ladder `best_of`.

    With neither it has its default rate.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    id: str
    variant: str
    rates: tuple[float, ...] = ()
    best_of: str = ""

    @property
    def variants(self) -> list[Variant]:
        """The method at each of the rates; without rates, the method as it is."""
        variant = parse_variant(self.variant)
        return [replace(variant, learning_rate=rate) for rate in self.rates] or [variant]


@dataclass(frozen=True)
class StudySweep:
    """Runs of one length that are scored on the same examples, each arm with each seed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    id: str
    steps: int
    eval_examples: int
    eval_split: EvalSplit
    answers: bool
    seeds: tuple[int, ...]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Estimate:
    """A number that a claim is about, from the named arms of the named sweeps.

    - "rate ratio": the best learning rate of the first arm, over that of the second
    - "loss": held-out loss of the first arm less that of the second, as a share of the second's
    - "forgetting": the same difference on unrelated text, in nats a token
    - "largest score difference": of any two of the arms
    - "gap ratio": the first arm's loss above the second's in the last sweep, over that in the first

    `band` are the values that agree with the claim; an end is `None` if there is no limit.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    words: str
    kind: Kind
    sweeps: tuple[str, ...]
    arms: tuple[str, ...]
    band: tuple[float | None, float | None]


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what it is tried by."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    id: str
    title: str
    says: str
    paper: str
    url: str
    estimates: Annotated[tuple[Estimate, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ClaimsProtocol:
    """What is run and judged, as it was fixed before the runs."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    notes: tuple[str, ...]
    task: str
    draws: int
    sweeps: Annotated[tuple[StudySweep, ...], Field(min_length=1)]
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    model: str = "bundled"

    def sweep(self, id: str) -> StudySweep:
        return next(sweep for sweep in self.sweeps if sweep.id == id)

    def arm(self, id: str) -> Arm:
        """The arm with a ladder that is named so."""
        return next(arm for sweep in self.sweeps for arm in sweep.arms if arm.id == id)

    def request(self, sweep: StudySweep) -> SweepRequest:
        """The request of the sweep, without variants."""
        return SweepRequest(
            model=parse_model(self.model).name,
            task=parse_task(self.task),
            settings=TrainingSettings(
                steps=sweep.steps,
                eval_examples=sweep.eval_examples,
                eval_split=sweep.eval_split,
                eval_answers=sweep.answers,
            ),
            seeds=sweep.seeds,
        )


def to_try(protocol: ClaimsProtocol, claim: Claim) -> SweepRequest:
    """The claim's methods as one sweep to try on another model, scored on test examples.

    Ladders keep their rates; other methods have their own for the model.
    """
    sweep = protocol.sweep(claim.estimates[-1].sweeps[-1])
    names = {arm for one in claim.estimates for arm in one.arms}
    variants = [variant for arm in sweep.arms if arm.id in names for variant in arm.variants]
    settings = TrainingSettings(steps=sweep.steps, eval_examples=_TO_TRY)
    return replace(protocol.request(sweep), variants=tuple(variants), settings=settings)


@dataclass(frozen=True)
class Estimated:
    """An estimate with its 95 % interval, and whether it agrees with the claim."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    words: str
    kind: Kind
    value: float
    low: float
    high: float
    band: tuple[float | None, float | None]

    @property
    def numbers(self) -> str:
        """As in "8.90 (6.10 to 13.00)"."""
        value, low, high = (format_number(n, 2) for n in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"

    @property
    def agreeing(self) -> str:
        """The values that agree with the claim, as in "5 to 20", "0 or more", "0.02 or less"."""
        low, high = self.band
        if low is None or high is None:
            return f"{low:g} or more" if low is not None else f"{high or 0:g} or less"
        return f"{low:g} to {high:g}"

    @property
    def verdict(self) -> Verdict:
        low, high = self._ends
        if low <= self.low and self.high <= high:
            return "seen"
        if self.high < low or high < self.low:
            return "not seen"
        return "cannot be seen at this size"

    @property
    def _ends(self) -> tuple[float, float]:
        low, high = self.band
        return (-math.inf if low is None else low, math.inf if high is None else high)


@dataclass(frozen=True)
class Tried:
    """A claim with its estimates; those whose runs are missing are left out."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    id: str
    estimates: tuple[Estimated, ...]

    @property
    def verdict(self) -> Verdict:
        """ "seen" only if every estimate is."""
        found = {estimate.verdict for estimate in self.estimates}
        if "not seen" in found:
            return "not seen"
        return "seen" if found == {"seen"} else "cannot be seen at this size"


@dataclass(frozen=True)
class ClaimsRecord:
    """What the runs of a protocol said.

    `rates` has the best learning rate of each ladder, `diverged` the labels of what was left out.
    `seeds_seen` is how far seeds differ in the sweeps without ladders, by the key of a measure.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    protocol: ClaimsProtocol
    tried: tuple[Tried, ...]
    rates: Mapping[str, float]
    machines: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    diverged: tuple[str, ...] = ()
    seeds_seen: Mapping[str, tuple[SeedsSeen, ...]] = field(default_factory=dict)
    commit: str | None = None

    @property
    def is_complete(self) -> bool:
        counts = {claim.id: len(claim.estimates) for claim in self.protocol.claims}
        return {tried.id: len(tried.estimates) for tried in self.tried} == counts

    def left_out(self, among: Collection[str]) -> str:
        """A sentence that names those of the labels which diverged; "" if none did."""
        labels = [label for label in self.diverged if label in among]
        return f"Left out, since a run diverged: {', '.join(labels)}." if labels else ""


_PROTOCOL: TypeAdapter[ClaimsProtocol] = TypeAdapter(ClaimsProtocol)
_RECORD: TypeAdapter[ClaimsRecord] = TypeAdapter(ClaimsRecord)


def protocol_file() -> Path:
    return assets_folder() / "studies" / "claims.json"


def record_file() -> Path:
    """What was measured, as it ships."""
    return assets_folder() / "studies" / "claims-recorded.json"


def read_protocol(file: Path | None = None) -> ClaimsProtocol:
    """Raises `FtlabError` if it is not there or cannot be read."""
    path = file or protocol_file()
    found = read_record(_PROTOCOL, path)
    if found is None:
        raise FtlabError(f"There is no protocol '{path}'.")
    return found


def read_claims(file: Path | None = None) -> ClaimsRecord | None:
    """What was measured; `None` if there is no such file. Raises `FtlabError` for a damaged one."""
    return read_record(_RECORD, file or record_file())


def write_claims(record: ClaimsRecord, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, _RECORD.dump_json(record, indent=1) + b"\n")


# ---------------------------------------------------------------- which runs there are


class Found:
    """The runs of a protocol among `runs`, by sweep, variant and seed.

    A rate at which a run diverged is no candidate: its ladder does without it.
    """

    def __init__(self, protocol: ClaimsProtocol, runs: Sequence[Run]) -> None:
        self._protocol = protocol
        self._runs: dict[tuple[str, int], list[Run]] = {}
        self._diverged: dict[tuple[str, str], Variant] = {}
        for sweep in protocol.sweeps:
            asked = protocol.request(sweep)
            for run in runs:
                spec = run.spec
                same = (spec.model, spec.task, spec.settings) == (
                    asked.model, asked.task, asked.settings,
                )  # fmt: skip
                if not same or spec.variant is None:
                    continue
                if run.status == "done" and run.result:
                    self._runs.setdefault((sweep.id, spec.seed), []).append(run)
                elif run.status == "diverged":
                    self._diverged[sweep.id, repr(spec.variant)] = spec.variant

    @property
    def used(self) -> list[Run]:
        """The runs of the arms, as far as it is known which these are."""
        found = [
            self.run(sweep, variant, seed)
            for sweep in self._protocol.sweeps
            for variant in self.known(sweep)
            for seed in sweep.seeds
        ]
        return [run for run in found if run is not None]

    def run(self, sweep: StudySweep, variant: Variant, seed: int) -> Run | None:
        runs = self._runs.get((sweep.id, seed), ())
        return next((run for run in runs if run.spec.variant == variant), None)

    def missing(self, sweep: StudySweep) -> dict[tuple[int, ...], list[Variant]]:
        """The variants of the sweep that lack a run, by the seeds that are missing.

        Raises `FtlabError` if one is to have the best rate of a ladder that is not done.
        """
        found: dict[tuple[int, ...], list[Variant]] = {}
        for arm in sweep.arms:
            for variant in self.variants(arm):
                seeds = tuple(s for s in sweep.seeds if self.run(sweep, variant, s) is None)
                if seeds and not self._has_diverged(sweep, variant):
                    found.setdefault(seeds, []).append(variant)
        return found

    @property
    def diverged(self) -> tuple[str, ...]:
        """Labels of the variants of which a run diverged."""
        labels = [variant.label for variant in self._diverged.values()]
        return tuple(dict.fromkeys(labels))  # a run may be one of several sweeps

    def _has_diverged(self, sweep: StudySweep, variant: Variant) -> bool:
        """Whether it did with any seed: then no other seed is needed."""
        return (sweep.id, repr(variant)) in self._diverged

    def variants(self, arm: Arm) -> list[Variant]:
        """The arm's variants, those of an arm with the best rate of a ladder at that rate.

        Raises `FtlabError` if that ladder is not done.
        """
        if not arm.best_of:
            return arm.variants
        rate = self.best_rate(arm.best_of)
        if rate is None:
            raise FtlabError(f"The ladder '{arm.best_of}' is not done.")
        return [replace(variant, learning_rate=rate) for variant in arm.variants]

    def known(self, sweep: StudySweep) -> list[Variant]:
        """The variants of the sweep, without those at a best rate that is not known yet."""
        return [
            variant
            for arm in sweep.arms
            if not arm.best_of or self.best_rate(arm.best_of) is not None
            for variant in self.variants(arm)
        ]

    def best_rate(self, ladder: str) -> float | None:
        """The rate with the lowest mean tuning loss; `None` if a run is missing."""
        arm = self._protocol.arm(ladder)
        sweep = next(sweep for sweep in self._protocol.sweeps if arm in sweep.arms)
        rungs = self.ladder(sweep, arm)
        if rungs is None:
            return None
        rates, losses = rungs
        means = [float(one.mean()) for one in losses]
        return rates[means.index(min(means))]

    def ladder(self, sweep: StudySweep, arm: Arm) -> Rungs | None:
        """The arm's rates at which no run diverged, and the losses at each; `None` if one is
        missing, or if there is no such rate."""
        rungs = [
            (rate, self.losses(sweep, variant))
            for rate, variant in zip(arm.rates, self.variants(arm), strict=True)
            if not self._has_diverged(sweep, variant)
        ]
        known = [losses for _, losses in rungs if losses is not None]
        return ([rate for rate, _ in rungs], known) if len(known) == len(rungs) > 0 else None

    def losses(self, sweep: StudySweep, variant: Variant) -> Losses | None:
        """(seeds, examples), weighted so that a mean is over tokens; `None` if one is missing."""
        return self._of_examples(sweep, variant, _LOSS)

    def scores(self, sweep: StudySweep, variant: Variant) -> Losses | None:
        """(seeds, examples); `None` if one is missing."""
        return self._of_examples(sweep, variant, _SCORE)

    def forgetting(self, sweep: StudySweep, variant: Variant) -> Losses | None:
        """(seeds, passages) of the loss on unrelated text, weighted as `losses`; `None` if one is
        missing."""
        import numpy as np

        runs = [self.run(sweep, variant, seed) for seed in sweep.seeds]
        results = [run.result for run in runs if run and run.result]
        rows = [result.general_losses for result in results]
        if len(rows) < len(runs) or len({len(row) for row in rows}) != 1 or not rows[0]:
            return None
        counts = np.array(results[0].general_tokens or [1] * len(rows[0]), dtype=float)
        weighted: Losses = np.array(rows, dtype=float) * (counts / counts.mean())
        return weighted

    def seeds_seen(self, measure: Measure) -> tuple[SeedsSeen, ...]:
        """How far seeds differ in each sweep without ladders, whose high rates differ more."""
        found = []
        for sweep in self._protocol.sweeps:
            if any(arm.rates for arm in sweep.arms):
                continue
            read = [self._of_examples(sweep, one, measure) for one in self.known(sweep)]
            scores = [one for one in read if one is not None]
            found.append(measure.seeds_seen(scores, [sweep.seeds] * len(scores)))
        return tuple(one for one in found if one is not None)

    def _of_examples(self, sweep: StudySweep, variant: Variant, measure: Measure) -> Losses | None:
        runs = [self.run(sweep, variant, seed) for seed in sweep.seeds]
        folders = [str(run.directory.path) for run in runs if run is not None]
        return measure.of_runs(folders) if len(folders) == len(runs) else None


# ---------------------------------------------------------------- estimates


def tried_claims(protocol: ClaimsProtocol, runs: Sequence[Run]) -> ClaimsRecord:
    """What the runs of that protocol among `runs` say of each claim."""
    found = Found(protocol, runs)
    tried = []
    for claim in protocol.claims:
        numbers = [(one, estimate(protocol, found, one)) for one in claim.estimates]
        done = tuple(
            Estimated(one.words, one.kind, number.mean, number.low, number.high, one.band)
            for one, number in numbers
            if number is not None
        )
        tried.append(Tried(claim.id, done))
    ladders = [arm.id for sweep in protocol.sweeps for arm in sweep.arms if len(arm.rates) > 1]
    rates = {ladder: found.best_rate(ladder) for ladder in ladders}
    return ClaimsRecord(
        protocol,
        tuple(tried),
        {ladder: rate for ladder, rate in rates.items() if rate is not None},
        *measured_with([run.result for run in found.used if run.result]),
        diverged=found.diverged,
        seeds_seen={measure.key: found.seeds_seen(measure) for measure in MEASURES},
    )


def estimate(protocol: ClaimsProtocol, found: Found, asked: Estimate) -> Interval | None:
    """The estimate with its interval; `None` if runs are missing."""
    sweeps = [protocol.sweep(id) for id in asked.sweeps]
    arms = [next(arm for arm in sweeps[0].arms if arm.id == id) for id in asked.arms]
    if asked.kind == "rate ratio":
        first, second = (found.ladder(sweeps[0], arm) for arm in arms)
        return rate_ratio(first, second, protocol.draws) if first and second else None
    try:
        variants = [found.variants(arm)[0] for arm in arms]
    except FtlabError:  # its ladder is not done
        return None
    if asked.kind == "gap ratio":
        columns = [[found.losses(sweep, variant) for variant in variants] for sweep in sweeps]
        pairs = [(a, b) for a, b in columns if a is not None and b is not None]
        return gap_ratio(pairs[-1], pairs[0], protocol.draws) if len(pairs) == len(sweeps) else None
    read = {
        "loss": found.losses,
        "forgetting": found.forgetting,
        "largest score difference": found.scores,
    }[asked.kind]
    values = [read(sweeps[0], variant) for variant in variants]
    known = [one for one in values if one is not None]
    if len(known) < len(values):
        return None
    among = [
        one for one in (read(sweeps[0], it) for it in found.known(sweeps[0])) if one is not None
    ]
    if asked.kind == "largest score difference":
        return largest_difference(known, among)
    of_kind = relative_difference if asked.kind == "loss" else difference
    return of_kind(known[0], known[1], among)


def difference(first: Losses, second: Losses, among: Sequence[Losses] = ()) -> Interval:
    """The mean of the first less that of the second; each is (seeds, examples), the seeds the same.

    How far seeds differ is pooled over `among`, the variants of their sweep; over both without it.
    """
    return _family([first, second], among or [first, second], _LOSS).difference(0, 1)


def relative_difference(first: Losses, second: Losses, among: Sequence[Losses] = ()) -> Interval:
    """As `difference`, as a share of the second's mean, which is taken as known."""
    found, whole = difference(first, second, among), float(second.mean())
    return Interval(found.mean / whole, found.low / whole, found.high / whole)


def largest_difference(scores: Sequence[Losses], among: Sequence[Losses] = ()) -> Interval:
    """The largest difference of the means of any two, by intervals that hold for all pairs.

    `low` is above 0 only if two are shown to differ; `among` is as in `difference`.
    """
    family = _family(scores, among or scores, _SCORE)
    pairs = [family.difference(a, b) for a, b in combinations(range(len(scores)), 2)]
    return Interval(
        max(abs(pair.mean) for pair in pairs),
        max(max(pair.low, -pair.high, 0.0) for pair in pairs),
        max(max(abs(pair.low), abs(pair.high)) for pair in pairs),
    )


def _family(values: Sequence[Losses], among: Sequence[Losses], measure: Measure) -> Simultaneous:
    import numpy as np

    level = float(np.mean([one.mean() for one in values]))
    of_seeds = seed_variance(among, _alike(among), measure.of_seeds_at(level))
    return Simultaneous(values, _alike(values), of_seeds)


def _alike(values: Sequence[Losses], first: int = 0) -> list[Seeds]:
    """The rows of each are of the same seeds, in one order."""
    return [range(first, first + len(rows)) for rows in values]


def rate_ratio(first: Rungs, second: Rungs, draws: int) -> Interval:
    """The best rate of the first ladder over that of the second.

    The best rate is at the lowest point of a parabola in the logarithm of the rate, through the
    best rate tried and its neighbours, and within the ladder.
    """
    import numpy as np

    rates = [np.log(np.array(list(ladder), dtype=float)) for ladder, _ in (first, second)]
    split = len(rates[0])

    def log_ratio(means: Losses) -> float:
        return best_log_rate(rates[0], means[:split]) - best_log_rate(rates[1], means[split:])

    losses = [*first[1], *second[1]]
    found = of_means(losses, _alike(losses), log_ratio, draws)
    return Interval(*(math.exp(end) for end in (found.mean, found.low, found.high)))


def of_means(
    losses: Sequence[Losses],
    seeds: Sequence[Seeds],
    function: Callable[[Losses], float],
    draws: int,
) -> Interval:
    """A function of the mean losses of several variants, and its interval.

    A parametric bootstrap (Efron & Tibshirani 1993, section 6.5) over other examples and other
    seeds, which keeps the pairing (`Simultaneous.draws`).
    """
    import numpy as np

    level = float(np.mean([one.mean() for one in losses]))
    of_seeds = seed_variance(losses, seeds, _LOSS.of_seeds_at(level))
    family = Simultaneous(losses, seeds, of_seeds)
    drawn = family.draws(draws)
    low, high = np.percentile([function(means) for means in drawn], _TAILS)
    return Interval(function(family.means), float(low), float(high))


def best_log_rate(log_rates: Losses, losses: Losses) -> float:
    """Where the parabola through the lowest loss and its two neighbours is lowest.

    The lowest tried rate itself at an end of the ladder, or where the three are on a line.
    """
    at = int(losses.argmin())
    if at in (0, len(losses) - 1):
        return float(log_rates[at])
    (x0, x1, x2), (y0, y1, y2) = log_rates[at - 1 : at + 2], losses[at - 1 : at + 2]
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:
        return float(x1)
    vertex = x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)
    return float(min(max(vertex, x0), x2))


def gap_ratio(last: tuple[Losses, Losses], first: tuple[Losses, Losses], draws: int) -> Interval:
    """How much of a gap is left: (first arm less second) in `last`, over the same in `first`."""

    def ratio(means: Losses) -> float:
        return float((means[0] - means[1]) / (means[2] - means[3]))

    # In runs of another length one seed has another order of the examples.
    seeds = [*_alike(last), *_alike(first, len(last[0]))]
    return of_means([*last, *first], seeds, ratio, draws)
