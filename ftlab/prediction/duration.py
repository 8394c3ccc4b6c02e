"""How long a training step takes: from its operations, bytes and calls, and the rates of a device.

No torch here. `simulation.work` counts, `machine_rates` measures the rates of this machine, and the
rates of a card follow from its data sheet.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from ftlab.basics.cards import Card, find_card
from ftlab.basics.units import DASH


@dataclass(frozen=True, slots=True)
class Work:
    """What a device does: operations of matrix products of 16-bit (`narrow`) and of 32-bit numbers
    (`wide`), bytes that are read and written, calls of torch's operations, and numbers of 4-bit
    weights that are unpacked."""

    narrow: float = 0
    wide: float = 0
    bytes: float = 0
    calls: float = 0
    unpacked: float = 0

    def __add__(self, other: Work) -> Work:
        return self._with(other, operator.add)

    def __sub__(self, other: Work) -> Work:
        """What is left; nothing of a kind where the other has more."""
        return self._with(other, lambda own, less: max(0, own - less))

    def times(self, factor: float) -> Work:
        return self._with(Work(*[factor] * len(fields(Work))), operator.mul)

    def _with(self, other: Work, operation: Callable[[float, float], float]) -> Work:
        """The operation on both numbers of each kind."""
        pairs = ((getattr(self, kind.name), getattr(other, kind.name)) for kind in fields(Work))
        return Work(*(operation(*pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class StepWork:
    """The work of a step: forward and backward pass of one batch of `tokens`, and the update."""

    batch: Work
    update: Work
    tokens: int

    def step(self, tokens: float, accumulation: int = 1) -> Work:
        """The work of a step of `accumulation` batches of `tokens` each.

        Operations and bytes of a batch are taken as proportional to its tokens; calls and unpacking
        are not.
        """
        share, one = tokens / self.tokens, self.batch
        batch = replace(
            one, narrow=share * one.narrow, wide=share * one.wide, bytes=share * one.bytes
        )
        return batch.times(accumulation) + self.update


@dataclass(frozen=True, slots=True)
class ScoringWork:
    """The work of a batch of answers: the pass over `rows` prompts of `prompt` tokens each, with
    virtual ones, and the pass over one more token of each row. Both are without the output layer,
    whose work for one token of each row is `output`."""

    prompts: Work
    token: Work
    output: Work
    rows: int
    prompt: int

    def passes(self, passes: float, tokens: float, outputs: float) -> Work:
        """The work of so many passes over so many tokens in all, with the logits of `outputs`.

        The two passes that were counted say what grows with the tokens and what each pass takes:
        some methods compute each layer's weights anew, which takes most of a pass over few tokens.
        """
        more = self.rows * max(1, self.prompt - 1)
        a_token = (self.prompts - self.token).times(1 / more)
        a_pass = self.token - a_token.times(self.rows)
        share, output = outputs / self.rows, self.output
        logits = replace(
            output.times(passes), narrow=share * output.narrow, wide=share * output.wide
        )
        return a_pass.times(passes) + a_token.times(tokens) + logits


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations of 16-bit and of 32-bit products, and bytes, a second; and seconds of a call.

    `overlaps`: on a GPU the host calls ahead while the device computes. `few_rows`: bytes of
    weights a second in 16-bit products of few rows, as of one more token of each answer; 0: as
    `bytes`. `quiet`: nothing else used the device's cores while they were measured. `unpacked`:
    numbers of 4-bit weights a second; 0: no time but that of their bytes.
    """

    narrow: float
    wide: float
    bytes: float
    call_seconds: float
    overlaps: bool
    few_rows: float = 0.0
    quiet: bool = True
    unpacked: float = 0.0

    def of_few_rows(self) -> Rates:
        """The rates of a pass over few rows, most of whose bytes are weights."""
        return replace(self, bytes=self.few_rows or self.bytes)

    def best(self, other: Rates | None) -> Rates:
        """The higher of two measurements: whatever else the machine did made them lower."""
        if other is None:
            return self
        return Rates(
            max(self.narrow, other.narrow),
            max(self.wide, other.wide),
            max(self.bytes, other.bytes),
            min(self.call_seconds, other.call_seconds),
            self.overlaps,
            max(self.few_rows, other.few_rows),
            self.quiet or other.quiet,
            max(self.unpacked, other.unpacked),
        )

    def seconds(self, work: Work) -> float:
        """Seconds that the work takes.

        On a CPU products, bytes and calls take their time one after another. On a GPU host and
        device wait for each other only in places, so the time lies between the longer of the two
        and their sum: the root of the sum of squares.
        """
        device = work.narrow / self.narrow + work.wide / self.wide + work.bytes / self.bytes
        device += work.unpacked / self.unpacked if self.unpacked else 0
        host = work.calls * self.call_seconds
        return math.hypot(device, host) if self.overlaps else device + host


@dataclass(frozen=True)
class Band:
    """What was measured is `low` to `high` times the predicted, in `runs` of `whose`; 0 runs: the
    default."""

    low: float
    high: float
    runs: int = 0
    whose: str = ""

    def of(self, predicted: float) -> tuple[int, int]:
        """Returns the expected minimum and maximum, in whole units."""
        return round(self.low * predicted), round(self.high * predicted)


FITTED = Rates(251e12, 63.5e12, 1.0e12, 7.09e-6, overlaps=True)
"""Fitted to published step times of 34 methods on an L40S (`tests.benchmarks.step_times`)."""

_FITTED_ON = "l40s"

ON_CARDS = Band(0.9, 1.8)
"""Nearly all published step times are within this of their predictions (docs/prediction.md)."""


def rates_of(card: Card) -> Rates | None:
    """The rates of a card: as much of its data sheet's as was fitted; `None` if it has none.

    The share of bytes is above 1, because much of what is counted comes from a cache.
    """
    fitted = find_card(_FITTED_ON).sheet
    sheet = card.sheet
    if sheet is None or fitted is None:
        return None
    narrow, memory = FITTED.narrow / fitted.narrow, FITTED.bytes / fitted.bytes
    return Rates(
        narrow * sheet.narrow, narrow * sheet.wide, memory * sheet.bytes, FITTED.call_seconds, True
    )


NO_TIME_OVER_CARDS = (
    "The time of a step over several cards is not predicted: it depends on the link between them, "
    "which data sheets of cards do not tell, and nobody measured it."
)

STEPS = 1_000
"""The number of steps whose time and cost are said of a card."""


def seconds_of_steps(work: StepWork | None, card: Card, accumulation: int = 1) -> float | None:
    """Seconds of `STEPS` steps on the card, each of batches of the work's size.

    `None` if the step was not simulated, or the card has no data sheet.
    """
    rates = rates_of(card)
    if work is None or rates is None:
        return None
    return STEPS * rates.seconds(work.step(work.tokens, accumulation))


def cost(seconds: float | None, an_hour: float | None) -> float | None:
    """What the seconds cost, in the currency of the price an hour; `None` without a price."""
    return None if seconds is None or an_hour is None else seconds / 3600 * an_hour


def format_cost(value: float | None) -> str:
    """1234.5 -> "1,234"; 12.345 -> "12.35"; 0.01234 -> "0.012"."""
    if value is None:
        return DASH
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
