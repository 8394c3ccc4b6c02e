"""A plan to send: the card and the report of predictions, made before any run.

Nothing in them is measured, and each number is marked as predicted. They use the drawing of the
savings card and the page of the report.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass

from markupsafe import Markup

from ftlab import __version__
from ftlab.basics import cards, units
from ftlab.basics.words import join_names, plural, shorten
from ftlab.charts.drawing import short_name
from ftlab.charts.gauge import gauge_html
from ftlab.charts.html import chip, named
from ftlab.methods.variant import format_variant
from ftlab.prediction.fit import Change, Fit, fit
from ftlab.prediction.fit import Verdict as FitVerdict
from ftlab.prediction.question import Prediction, Question, Step
from ftlab.prediction.remedies import ON_CUDA
from ftlab.settings.schema import fields_of
from ftlab.share.card import DARK, LIGHT, card_svg
from ftlab.share.card_content import Bar, Card, Mood, Pair, Tile, Verdict
from ftlab.share.page import NOTHING, each, numbers_table, small_print, standalone, stylesheet

_MODEL_LENGTH = 48  # of a model's name, which may come from a config or the Hub
_STEP = fields_of(Step)
_VERDICTS: dict[FitVerdict, Verdict] = {
    "fits": "saving", "tight": "partial", "does not fit": "none",
}  # fmt: skip
_MOODS: dict[FitVerdict, Mood] = {"fits": "good", "tight": "plain", "does not fit": "bad"}
_CHIPS = {"fits": "ok", "tight": "warn", "does not fit": "bad"}
_ENOUGH: dict[FitVerdict, str] = {
    "fits": "is enough", "tight": "is just enough", "does not fit": "is not enough",
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """Predictions for one model on one graphics card; `asked` and `answers` have the same order.

    The first is the headline's, the others are beside it; all are of `step`. `model` is its display
    name, `name` its id in the catalogue or on the Hub, "" without one. `changes` would make the
    first one fit.
    """

    model: str
    name: str
    gpu: cards.Card
    step: Step
    asked: tuple[Question, ...]
    answers: tuple[Prediction, ...]
    changes: tuple[tuple[Change, Prediction], ...] = ()

    @property
    def chosen(self) -> Prediction:
        return self.answers[0]

    @property
    def other(self) -> Prediction | None:
        """What the headline is compared with: full fine-tuning, else the first other method."""
        others = sorted(self.answers[1:], key=lambda one: one.method != "full")
        return others[0] if others else None

    def fit(self, answer: Prediction) -> Fit | None:
        peak = answer.peak_reserved_bytes
        return None if peak is None else fit(peak, self.gpu)


def plan_card(plan: Planned) -> Card:
    """The card of a plan: whether it fits, against full fine-tuning."""
    chosen, found = plan.chosen, plan.fit(plan.chosen)
    return Card(
        sentence=_sentence(plan, found),
        verdict="incomplete" if found is None else _VERDICTS[found.verdict],
        judgement=_judgement(plan, found),
        variant=chosen.label,
        method=chosen.method,
        tiles=_tiles(plan, found),
        pairs=_pairs(plan),
        facts=_facts(plan),
        origin="predicted",
        origin_text="predicted, nothing was run",
        sweep_id="",
    )


def _sentence(plan: Planned, found: Fit | None) -> str:
    """As in "Predicted: a GeForce RTX 4090 is just enough to fine-tune …"."""
    model = shorten(plan.model, _MODEL_LENGTH)
    chosen = plan.chosen
    what = f"to fine-tune {model} with {chosen.label}"
    if chosen.method == "full":
        what = f"for full fine-tuning of {model}"
    if found is None:
        return f"{chosen.label} on {model}: the memory needed cannot be predicted. {chosen.reason}"
    takes = f"{units.format_bytes(chosen.peak_reserved_bytes)} at the peak"
    cards_, enough, over = "one", _ENOUGH[found.verdict], plan.step.shard
    if over > 1:
        cards_, enough, takes = str(over), enough.replace("is", "are", 1), f"{takes} of each"
    words = f"Predicted: {cards_} {plan.gpu.label} {enough} {what}, which takes {takes}"
    other = plan.other
    if other is None or other.peak_reserved_bytes is None:
        return f"{words}."
    size = units.format_bytes(other.peak_reserved_bytes)
    return f"{words}; {_lower(other.label)} would take {size}."


def _lower(label: str) -> str:
    """Lower case in the middle of a sentence, except for names such as LoRA."""
    return label if any(char.isupper() for char in label[1:]) else label[:1].lower() + label[1:]


def _judgement(plan: Planned, found: Fit | None) -> str:
    """As in "Predicted: tight; QLoRA fits, full fine-tuning does not fit"."""
    parts = {"fits": "fits", "tight": "is tight", "does not fit": "does not fit"}
    by_verdict: dict[str, list[str]] = {}
    for answer in plan.answers[1:]:
        other = plan.fit(answer)
        if other is not None:
            by_verdict.setdefault(other.verdict, []).append(_lower(answer.label))
    words = [
        f"{join_names(by_verdict[verdict])} {_of_several(ends, len(by_verdict[verdict]))}"
        for verdict, ends in parts.items()
        if verdict in by_verdict
    ]
    own = "no prediction of memory" if found is None else found.verdict
    return f"Predicted: {own}" + (f"; {', '.join(words)}" if words else "")


def _of_several(verb: str, count: int) -> str:
    if count == 1:
        return verb
    return {"fits": "fit", "is tight": "are tight", "does not fit": "do not fit"}[verb]


def _tiles(plan: Planned, found: Fit | None) -> tuple[Tile, ...]:
    chosen, other = plan.chosen, plan.other

    def beside(text: str) -> str:
        if other is None or text == units.DASH:
            return ""
        return f"{short_name(other.label, other.method, 18)}: predicted {text}"

    def of_other(name: str) -> str:
        return "" if other is None else beside(units.format_bytes(getattr(other, name)))

    left = Tile(units.DASH, "left on the card, predicted")
    if found is not None:
        what = "left on the card" if found.margin_bytes >= 0 else "too much for the card"
        left = Tile(
            units.format_bytes(abs(found.margin_bytes)),
            f"{what}, predicted",
            f"of {units.format_bytes(plan.gpu.usable_bytes)} for tensors",
            _MOODS[found.verdict],
            found.verdict,
        )
    return (
        Tile(
            units.format_bytes(chosen.peak_reserved_bytes), "predicted memory needed",
            of_other("peak_reserved_bytes"),
        ),
        left,
        Tile(
            units.format_bytes(chosen.adapter_bytes), "predicted file to deliver",
            of_other("adapter_bytes"),
        ),
        Tile(
            _share(chosen), "of the parameters trained, predicted",
            f"predicted {units.format_count(chosen.trainable_params)} "
            f"of {units.format_count(chosen.total_params)}",
        ),
    )  # fmt: skip


def _share(answer: Prediction) -> str:
    if answer.trainable_params is None or not answer.total_params:
        return units.DASH
    return units.format_share(answer.trainable_params / answer.total_params)


def _pairs(plan: Planned) -> tuple[Pair, ...]:
    other = plan.other
    if other is None:
        return ()
    return tuple(
        _pair(title, plan.chosen, other, name)
        for title, name in (
            ("Predicted memory needed", "peak_reserved_bytes"),
            ("Predicted file to deliver", "adapter_bytes"),
        )
        if getattr(plan.chosen, name) is not None and getattr(other, name) is not None
    )


def _pair(title: str, chosen: Prediction, other: Prediction, name: str) -> Pair:
    longest = max(getattr(chosen, name), getattr(other, name), 1)

    def bar(answer: Prediction) -> Bar:
        value = getattr(answer, name)
        label = short_name(answer.label, answer.method, 18)
        return Bar(label, answer.method, value / longest, f"≈ {units.format_bytes(value)}")

    return Pair(title, (bar(chosen), bar(other)))


def _facts(plan: Planned) -> tuple[str, str]:
    """What was planned, and how it was predicted."""
    where = [
        f"{plan.gpu.label}, {units.format_bytes(plan.gpu.memory_bytes)}",
        shorten(plan.model, _MODEL_LENGTH),
        *_step_words(plan.step),
    ]
    how = [
        f"predicted from the config alone by ftlab {__version__}: no weights loaded, nothing run",
        f"published runs: nearly all within {_accuracy()} of the predicted peak"
        + (", all of them on one card" if plan.step.shard > 1 else ""),
    ]
    return " · ".join(where), " · ".join(how)


def _accuracy() -> str:
    return f"{100 * (ON_CUDA.high - 1):.0f} %"


def _step_words(step: Step) -> list[str]:
    """The planned step in short: "batch 4 x 896 tokens", "bf16", …"""
    words = [f"batch {step.batch} x {step.length:,} tokens", step.weights]
    if step.shard > 1:
        words.append(f"over {step.shard} cards")
    if step.accumulation > 1:
        words.append(f"accumulated {step.accumulation} times")
    if step.completion_tokens is not None:
        words.append(f"loss on {plural(step.completion_tokens, 'token')} of a row")
    if step.checkpointing:
        words.append("gradient checkpointing")
    return [*words, _STEP["optimizer"].shown(step.optimizer)]


def plan_report(plan: Planned, measured: str = "") -> str:
    """Returns the report of a plan as one HTML document, which loads nothing and runs no script.

    `measured` is a sentence on how far predictions were off in runs of this machine.
    """
    card = plan_card(plan)
    sections = [
        _card_section(plan, card),
        _fits_section(plan),
        _made_of_section(plan),
        _changes_section(plan),
        _step_section(plan),
        _how_section(measured, plan.step.shard > 1),
        _again_section(plan),
    ]
    return standalone(
        card.sentence, [str(section) for section in sections if section], stylesheet()
    )


def _predicted(text: str) -> Markup:
    """A predicted number; a dash is none."""
    return Markup('<span class="pred">{}</span>' if text != units.DASH else "{}").format(text)


def _card_section(plan: Planned, card: Card) -> Markup:
    made_of = " · ".join([
        plan.model, plan.gpu.label, *_step_words(plan.step),
        f"report of {time.strftime('%d %b %Y')} by ftlab {__version__}",
    ])  # fmt: skip
    pictures = Markup(
        '<div class="card light">{}</div><div class="card dark">{}</div>'
    ).format(Markup(card_svg(card, LIGHT)), Markup(card_svg(card, DARK)))  # fmt: skip
    mark = Markup(chip("predicted", "predicted"))
    first = (
        "Every number in this report is predicted from the model's config.json, before any run: no "
        "weights were loaded, no graphics card was used, and nothing was measured."
    )
    return Markup("<p>{} {}</p>{}{}").format(mark, first, small_print(made_of), pictures)


def _fits_section(plan: Planned) -> Markup:
    heads = (
        "Predicted memory needed", "Predicted to be left on the card", "Predicted to be trained",
        "Predicted file to deliver", "Predicted to fit",
    )  # fmt: skip
    rows = [(Markup(named(one.method, one.label)), _cells(plan, one)) for one in plan.answers]
    words = (
        f"{plan.gpu.label} has {units.format_bytes(plan.gpu.memory_bytes)}; about "
        f"{units.format_bytes(plan.gpu.context_bytes)} of it are for CUDA's context, the rest for "
        f"tensors. Tight: it fits, but would not if it took {_accuracy()} more."
    )
    reasons = [f"{one.label}: {one.reason}" for one in plan.answers if one.reason]
    return Markup("<h2>What fits</h2>{}{}{}").format(
        small_print(words),
        numbers_table("Methods", "plan", "Method", heads, rows, heads),
        small_print(*reasons),
    )


def _cells(plan: Planned, answer: Prediction) -> list[Markup]:
    found = plan.fit(answer)
    margin, verdict = units.DASH, Markup(chip("no prediction", "mute"))
    if found is not None:
        size = units.format_bytes(abs(found.margin_bytes))
        margin = size if found.margin_bytes >= 0 else f"{size} too little"
        verdict = Markup(chip(found.verdict, _CHIPS[found.verdict]))
    share = _share(answer)
    trained = units.format_count(answer.trainable_params)
    return [
        _predicted(units.format_bytes(answer.peak_reserved_bytes)),
        _predicted(margin),
        _predicted(trained if share == units.DASH else f"{trained}, {share}"),
        _predicted(units.format_bytes(answer.adapter_bytes)),
        verdict,
    ]


def _made_of_section(plan: Planned) -> Markup:
    known = [(one, one.peak_reserved_bytes) for one in plan.answers if one.peak_reserved_bytes]
    if not known:
        return NOTHING
    whole = max(peak for _, peak in known)
    bars = each("<h3>{}: predicted peak {}</h3>{}", (
        (Markup(named(one.method, one.label)), _predicted(units.format_bytes(peak)),
         Markup(gauge_html(one, peak, plan.gpu, whole)))
        for one, peak in known
    ))  # fmt: skip
    words = "The red line is what the card has for tensors; all bars have one scale."
    return Markup("<h2>What the predicted peaks are made of</h2>{}{}").format(
        small_print(words), bars
    )


def _changes_section(plan: Planned) -> Markup:
    if not plan.changes:
        return NOTHING
    items = each("<li>{}: predicted peak {} ({})</li>", (
        (change.label, _predicted(units.format_bytes(answer.peak_reserved_bytes)), change.costs)
        for change, answer in plan.changes
    ))  # fmt: skip
    return Markup("<h2>What would make {} fit</h2><ul>{}</ul>").format(plan.chosen.label, items)


def _step_section(plan: Planned) -> Markup:
    rows = [
        ("Model", plan.model),
        ("Graphics card", plan.gpu.label),
        *((field.label, field.shown(getattr(plan.step, name))) for name, field in _STEP.items()
          if field.setting.is_on_form),
    ]  # fmt: skip
    body = each("<tr><th>{}</th><td>{}</td></tr>", rows)
    return Markup(
        '<h2>What was planned</h2><table class="pairs"><tbody>{}</tbody></table>'
    ).format(body)  # fmt: skip


def _how_section(measured: str, over_several: bool) -> Markup:
    return Markup("<h2>How it was predicted</h2><p>{}</p><p>{}</p>{}").format(
        "Parameters and files are counted from the shapes of the model and the method. For the "
        "memory needed, one training step is run on tensors that have shapes and no data, and each "
        "allocation is replayed through a model of torch's CUDA allocator. The peak is what torch "
        "reserves from the driver. Time and quality are not predicted.",
        f"How far off: nearly all published runs that were compared are within {_accuracy()} of "
        "the predicted peak. docs/prediction.md of ftlab lists each, with those that are not."
        + (" All of them ran on one card: none over several is known." if over_several else ""),
        small_print(f"Runs on the machine of this report: {measured}." if measured else ""),
    )


def _again_section(plan: Planned) -> Markup:
    file = "" if plan.name else "config.json is the model's own config, which was given as a file."
    here = "" if plan.gpu.id != cards.HERE else "The card is that of the machine it was made on."
    return Markup("<h2>Predict it again</h2><pre>{}</pre>{}").format(
        command_of(plan), small_print(file, here)
    )


def command_of(plan: Planned) -> str:
    """The `predict` command with the same questions."""
    variants = [format_variant(question.variant) for question in plan.asked]
    parts = ["python -m ftlab predict", _option("model", plan.name or "config.json")]
    parts.append(_option("device", plan.gpu.id))
    if all(":" not in text for text in variants):
        parts.append(_option("methods", ",".join(variants)))
    else:
        parts += [_option("variant", text) for text in variants]
    for name, described in _STEP.items():
        value = getattr(plan.step, name)
        if isinstance(value, bool):
            parts.append(f"--{'' if value else 'no-'}{described.option}")
        elif value is not None:
            parts.append(_option(described.option, value))
    return " \\\n  ".join(parts)


def _option(name: str, value: object) -> str:
    return f"--{name}={shlex.quote(str(value))}"
