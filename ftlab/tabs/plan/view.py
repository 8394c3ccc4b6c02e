"""HTML of the Plan tab: the verdict, every method on the card, published claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlab.basics.cards import Card
from ftlab.basics.units import DASH, format_bytes, format_count, format_seconds, format_share
from ftlab.charts.gauge import gauge_html
from ftlab.prediction.duration import (
    NO_TIME_OVER_CARDS,
    ON_CARDS,
    cost,
    format_cost,
    seconds_of_steps,
)
from ftlab.prediction.fit import Change, Claim, Fit, fit
from ftlab.prediction.question import Prediction
from ftlab.tabs.learn.parts import table
from ftlab.tabs.plan.request import Plan
from ftlab.tabs.widgets import Markup, blank, chip, escape, heading, named

PREDICTED = chip("predicted", "predicted", "Computed before any run, from the config alone")
_KINDS = {"fits": "ok", "tight": "warn", "does not fit": "bad"}


def empty_html() -> str:
    return blank(
        "No plan yet.", "Choose a model, a method and a card; nothing is loaded for a prediction."
    )


def pending_html(label: str, model: str) -> str:
    """HTML: shown until the first prediction arrives."""
    return heading(f"{label} on {model}", sub="One training step is being simulated …")


def verdict_html(plan: Plan, found: Prediction, note: str = "") -> str:
    """HTML: the headline, a bar with the parts of the peak, the remaining memory, and the time.

    `note` is a last sentence on changes that would make it fit.
    """
    label, model, card = plan.label, plan.model.label, plan.card
    peak = found.peak_reserved_bytes
    if peak is None:
        reason = found.reason or "Its memory cannot be simulated."
        return heading(f"{label} on {model}: no prediction of memory", sub=reason) + _counts(found)
    result = fit(peak, card)
    over = plan.step.shard
    title = Markup("{} on {} needs {}{}; {} has {} for tensors.").format(
        label, model, predicted(format_bytes(peak)), f" on each of {over} cards" * (over > 1),
        card.label, format_bytes(card.usable_bytes),
    )  # fmt: skip
    return (
        f'<div class="verdict"><div class="hd">'
        f"{chip(result.verdict, f'{_KINDS[result.verdict]} big')}<h2>{title}</h2>"
        f'<span class="grow"></span>{PREDICTED}</div>{gauge_html(found, peak, card)}'
        f'<p class="meta">{_margin(result)} About {escape(format_bytes(card.context_bytes))} for '
        f"CUDA's context are taken off the card. {escape(note)}</p>{_time(plan, found)}"
        f"{_counts(found)}</div>"
    )


def predicted(text: str) -> Markup:
    return Markup('<span class="pred">{}</span>').format(text)


def methods_html(plan: Plan, found: Mapping[str, Prediction]) -> str:
    """HTML: a table of the plan's methods on its card; a missing prediction is an ellipsis."""
    lines = [
        (
            Markup(named(method, label)),
            _on_card(found.get(method), plan.card),
            _steps(plan, found.get(method)),
        )
        for method, label in plan.rows
    ]
    steps = "1,000 steps" if plan.price is None else "1,000 steps, cost"
    heads = ("Method", "Memory needed", steps)
    return table(heads, lines, "Every method on this card")


def change_label(change: Change, found: Prediction, card: Card) -> str:
    """Returns the button label of a change that makes the step fit."""
    peak = found.peak_reserved_bytes or 0
    return f"{change.label}: ≈ {format_bytes(peak)}, {fit(peak, card).verdict} ({change.costs})"


def claims_html(claims: Sequence[Claim]) -> str:
    """HTML: the papers' numbers beside those computed from the models' shapes."""
    lines = [
        (_claim(claim), claim.paper, claim.ours if claim.ours == DASH else predicted(claim.ours))
        for claim in claims
    ]
    return Markup('<div class="claims">{}</div>').format(
        Markup(table(("Claim", "Paper", "Here"), lines, "Published claims"))
    )


def _claim(claim: Claim) -> Markup:
    return Markup('{}<small>{} <a href="{}" target="_blank" rel="noopener">{}</a></small>').format(
        claim.what, claim.why, claim.url, claim.source
    )


def _on_card(found: Prediction | None, card: Card) -> str:
    """The cell of the memory needed, with below it whether the card has so much."""
    if found is None:
        return Markup('…<span class="unseen">not known yet</span>')
    peak = found.peak_reserved_bytes
    if peak is None:
        return Markup(chip("no prediction", "mute", found.reason))
    verdict = fit(peak, card).verdict
    needed = predicted(format_bytes(peak))
    return Markup("{}<br>{}").format(needed, Markup(chip(verdict, _KINDS[verdict])))


def _steps(plan: Plan, found: Prediction | None) -> str:
    """The cell of the time of 1,000 steps, with their cost below it if there is a price."""
    if found is None:
        return ""
    seconds = seconds_of_steps(found.work, plan.card, plan.step.accumulation)
    if seconds is None:
        return DASH
    time = predicted(format_seconds(seconds))
    if plan.price is None:
        return time
    return Markup("{}<br>{}").format(time, predicted(format_cost(cost(seconds, plan.price))))


def _time(plan: Plan, found: Prediction) -> str:
    """The sentence on the time of 1,000 steps, its range, and what they cost."""
    if plan.step.shard > 1:
        return f'<p class="meta">{escape(NO_TIME_OVER_CARDS)}</p>'
    seconds = seconds_of_steps(found.work, plan.card, plan.step.accumulation)
    if seconds is None:
        return ""
    low, high = (format_seconds(seconds * times) for times in (ON_CARDS.low, ON_CARDS.high))
    price = ""
    if plan.price is not None:
        price = Markup(", which cost {} at {} an hour").format(
            predicted(format_cost(cost(seconds, plan.price))), format_cost(plan.price)
        )
    return Markup(
        '<p class="meta">1,000 steps take about {} ({} to {}){}. Fitted to published times on an '
        "L40S, and scaled by the cards' data sheets.</p>"
    ).format(predicted(format_seconds(seconds)), low, high, price)


def _margin(result: Fit) -> str:
    size = predicted(format_bytes(abs(result.margin_bytes)))
    return f"Short by {size}." if result.margin_bytes < 0 else f"{size} are left."


def _counts(found: Prediction) -> str:
    if found.trainable_params is None or not found.total_params:
        return ""
    share = format_share(found.trainable_params / found.total_params)
    return (
        f'<p class="meta">Trains {predicted(format_count(found.trainable_params))} of '
        f"{escape(format_count(found.total_params))} parameters ({escape(share)}); its file has "
        f"{predicted(format_bytes(found.adapter_bytes))}.</p>"
    )
