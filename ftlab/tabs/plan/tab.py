"""The Plan tab: whether a model and a method fit on a card, and which changes make them fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gradio as gr

from ftlab.basics.devices import AUTO, resolve_device
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.words import join_names
from ftlab.charts.peak_length import PeakLine, is_above, leaves_at, peak_length_figure
from ftlab.charts.predicted import TIME, predicted_figure, predicted_finding
from ftlab.jobs.inputs import Access
from ftlab.methods.registry import METHODS
from ftlab.prediction.duration import Band
from ftlab.prediction.fit import CARDS, Ask, Change, claims, fitting, qlora_on_65b
from ftlab.prediction.question import Prediction
from ftlab.prediction.remedies import calibration
from ftlab.prediction.run_time import TRAIN, past_runs
from ftlab.share.plan import Planned
from ftlab.tabs.address import address_of
from ftlab.tabs.context import (
    QUIET,
    AppContext,
    Latest,
    Links,
    TabSpec,
    opened,
    taken,
    while_there,
)
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.learn.parts import plot
from ftlab.tabs.plan import share
from ftlab.tabs.plan.request import (
    ADDRESS,
    CHANGED_BY_A_FIX,
    ON_FORM,
    PREFIX,
    START,
    TARGET,
    Plan,
    card_choices,
    changed_fields,
    curve_questions,
    linked_model,
    method_choices,
    model_choices,
    read_link,
    read_plan,
)
from ftlab.tabs.plan.view import (
    PREDICTED,
    change_label,
    claims_html,
    empty_html,
    methods_html,
    pending_html,
    verdict_html,
)
from ftlab.tabs.widgets import H, blank, head, heading, warn

_SEARCHING = "Looking for what would make it fit …"
_NOTHING = "No change of the fields here makes it fit."
_NO_CURVE = heading(
    "Memory needed at each length",
    PREDICTED,
    sub="The length of an example from which each method no longer fits: up to 20 predictions",
)


def build(context: AppContext, links: Links) -> None:
    """Builds the tab and its events."""
    form = Form()
    with gr.Row(elem_classes="ft-work"):
        with gr.Column(scale=0, min_width=330, elem_classes="ft-rail ft-sheet"):
            _build_fields(form, context.access)
            head("Every method on this card", PREDICTED)
            methods = H("")
        with gr.Column(scale=1, min_width=320):
            with gr.Column(elem_classes="ft-sheet"):
                verdict = H(empty_html(), elem_id="plan-verdict")
                with gr.Row(elem_classes="ft-fixes"):
                    fixes = [
                        gr.Button("", visible=False, size="sm", elem_id=f"plan-fix-{number}")
                        for number in range(1, share.MOST_FIXES + 1)
                    ]
                offered = gr.State([])
            sheet = share.build(context, form)
            with gr.Row():
                with gr.Column(scale=3, min_width=320):
                    with gr.Column(elem_classes="ft-sheet"):
                        curve_head = H(_NO_CURVE)
                        draw = gr.Button("Draw the curve", size="sm", elem_id="plan-draw")
                        figure = plot(visible=False)
                    with gr.Column(elem_classes="ft-sheet"):
                        seen_head = H(elem_id="plan-seen")
                        seen_figure = plot(visible=False)
                        times_head = H(elem_id="plan-seen-times")
                        times_figure = plot(visible=False)
                with gr.Column(scale=2, min_width=320, elem_classes="ft-sheet"):
                    head(
                        "Published claims, recomputed",
                        PREDICTED,
                        sub="From the models' shapes alone",
                    )
                    claimed = H(claims_html(claims()))
                    simulate = gr.Button("Simulate QLoRA on LLaMA 65B", size="sm")

    latest = Latest()
    fields = list(form.components.values())
    outputs = [*form.slots.values(), verdict, methods, offered, *fixes, *sheet]

    def plan(request: gr.Request, *given: Any) -> Iterator[Sequence[Any]]:
        session, values = str(request.session_hash), form.values(given)
        mine = latest.begin(session)
        yield from _shown(
            context, request, len(outputs), lambda ask: make_plan(context, form, values, ask),
            lambda: latest.is_newest(session, mine),
        )  # fmt: skip

    def draw_curve(request: gr.Request, *given: Any) -> Iterator[Sequence[Any]]:
        values = form.values(given)
        yield from _shown(context, request, 2, lambda ask: make_curve(context, values, ask))

    def recompute(request: gr.Request) -> Iterator[Sequence[Any]]:
        yield from _shown(context, request, 2, lambda ask: [recompute_claims(ask)])

    # Before the plan: the handlers of one event run one after another, in the order of these lines.
    opened()(lambda: show_seen(context), None, [seen_head, seen_figure], **QUIET)
    opened()(lambda: show_seen_times(context), None, [times_head, times_figure], **QUIET)
    gr.on(
        [opened(), *(field.change for field in fields)],
        plan, fields, outputs, trigger_mode="multiple", **QUIET,
    )  # fmt: skip
    asked = [links.asked[name] for name in ADDRESS]

    def open_link(*given: Any) -> list[Any]:
        values = [taken(one) for one in given[: len(asked)]]
        return link_updates(values, form.values(given[len(asked) :]), context.access)

    # An address sets all states at once, so the first one stands for them.
    asked[0].change(open_link, [*asked, *fields], fields, trigger_mode="always_last", **QUIET)
    draw.click(draw_curve, fields, [curve_head, figure], **QUIET)
    simulate.click(lambda: gr.update(interactive=False), None, simulate, **QUIET).then(
        recompute, None, [claimed, simulate], **QUIET
    )
    targets = [form.components[PREFIX + name] for name in CHANGED_BY_A_FIX]
    for place, button in enumerate(fixes):
        button.click(_taking(place), offered, targets, **QUIET)


def _shown(
    context: AppContext,
    request: gr.Request,
    outputs: int,
    make: Callable[[Ask], Iterable[Sequence[Any]]],
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[Sequence[Any]]:
    """Yields the updates from `make`; while there are none, the page stays unchanged."""
    for shown in while_there(context.predictor, visitor_of(request), make, is_wanted):
        yield [gr.skip()] * outputs if shown is None else shown


def link_updates(asked: Sequence[str | None], values: dict[str, Any], access: Access) -> list[Any]:
    """Returns updates that put an address into the fields, and warns of its wrong values.

    The page without parameters is a new form, except where the fields are of a kind that an address
    cannot name: going back to them must not lose them.
    """
    if None in asked or not (any(asked) or linked_model(values)):
        return [gr.skip()] * len(values)
    read, wrong = read_link(dict(zip(ADDRESS, asked, strict=True)), access)
    if wrong:
        warn(f"{' '.join(wrong)} The plan is shown without it.")
    return [read[name] for name in values]


def make_plan(
    context: AppContext, form: Form, values: dict[str, Any], ask: Ask
) -> Iterator[list[Any]]:
    """Yields the tab's updates as predictions arrive: slots, verdict, methods, fixes."""
    try:
        plan = read_plan(values, context.access)
    except InvalidRequest as error:
        rest = [gr.skip()] * share.OUTPUTS
        yield [*form.slot_html(error.errors), gr.skip(), gr.skip(), *_no_fixes(), *rest]
        return
    slots = form.slot_html([])
    found: dict[str, Prediction] = {}
    order = list(plan.questions)

    def now(planned: Planned | None = None) -> list[Any]:
        sheet = share.updates(plan, planned)
        return [*slots, _verdict(plan, found), _methods(plan, found), *_no_fixes(), *sheet]

    yield now()
    try:
        for place, answer in ask(list(plan.questions.values())):
            found[order[place]] = answer
            if len(found) < len(order) or share.is_short(plan, found):
                yield now()
        if share.is_short(plan, found):
            changes = fitting(plan.chosen, plan.card, ask, share.MOST_FIXES, CARDS)
            sheet = share.updates(plan, share.planned_of(plan, found, changes))
            yield [*slots, *_with_fixes(plan, found, changes), *sheet]
        else:
            yield now(share.planned_of(plan, found))
    except FtlabError as error:
        failed = _addressed(plan, blank("No prediction.", str(error)))
        sheet = share.updates(plan, None)
        yield [*slots, failed, _methods(plan, found), *_no_fixes(), *sheet]


def make_curve(context: AppContext, values: dict[str, Any], ask: Ask) -> Iterator[tuple[Any, Any]]:
    """Yields heading and figure of peak memory against length, point by point."""
    try:
        plan = read_plan(values, context.access)
        asked = curve_questions(plan)
        peaks: dict[str, dict[int, int]] = {}
        answers = ask([question for _, _, question in asked])
        for done, (place, answer) in enumerate(answers, 1):
            method, length, _ = asked[place]
            if answer.peak_reserved_bytes is not None:
                peaks.setdefault(method, {})[length] = answer.peak_reserved_bytes
            lines = [PeakLine(m, METHODS[m].label, by_length) for m, by_length in peaks.items()]
            shown = peak_length_figure(lines, plan.card.usable_bytes, plan.card.label)
            yield curve_heading(lines, plan, done, len(asked)), gr.update(value=shown, visible=True)
    except FtlabError as error:
        yield heading("Memory needed at each length", sub=str(error)), gr.skip()


def recompute_claims(ask: Ask) -> tuple[Any, Any]:
    """Simulates the claim that needs it; returns the updates of the table and of its button."""
    try:
        ((_, answer),) = ask([qlora_on_65b()])
    except FtlabError as error:
        warn(str(error))
        return gr.skip(), gr.update(interactive=True)
    return claims_html(claims(answer.peak_reserved_bytes)), gr.update(visible=False)


def show_seen(context: AppContext) -> tuple[str, Any]:
    """Returns heading and figure that compare predictions with measurements on this machine."""
    device = resolve_device(AUTO)
    known = calibration(context.store.runs(), device)
    if not known.seen:
        nothing = "Each run keeps what was predicted of it; launch some, and they are compared here"
        return heading("Predicted and measured here", sub=nothing), gr.update(visible=False)
    band = known.whole()
    sub = (
        f"Memory while training on {device.label}. Beside Launch, predictions are shown as "
        f"{band.low:.2f} to {band.high:.2f} times what is computed"
    )
    figure = predicted_figure(known.seen, band)
    return heading(predicted_finding(known.seen), sub=sub), gr.update(value=figure, visible=True)


def show_seen_times(context: AppContext) -> tuple[str, Any]:
    """Returns heading and figure that compare computed with measured training times here."""
    device = resolve_device(AUTO)
    seen = past_runs(context.store.runs(), device).seen[TRAIN]
    if not seen:
        return "", gr.update(visible=False)
    ratios = [run.ratio for run in seen]
    band = Band(min(ratios), max(ratios), len(ratios), "all methods")
    sub = (
        f"Training time on {device.label}, from this machine's rates. Beside Launch, times are "
        "corrected by what the runs here took"
    )
    figure = predicted_figure(seen, band, quantity=TIME)
    return heading(predicted_finding(seen), sub=sub), gr.update(value=figure, visible=True)


def curve_heading(lines: Sequence[PeakLine], plan: Plan, done: int, total: int) -> str:
    """HTML: the finding of the figure as a sentence, or the progress until it is complete."""
    if done < total:
        return heading(
            "Memory needed at each length", PREDICTED, sub=f"{done} of {total} predictions"
        )
    limit = plan.card.usable_bytes
    left = [(line.label, leaves_at(line, limit)) for line in lines]
    words = [f"{label} at about {length:,} tokens" for label, length in left if length]
    title = (
        f"Too large for the card: {join_names(words)}"
        if words
        else "No line crosses the card's limit"
    )
    above = [line.label for line in lines if is_above(line, limit)]
    sub = (
        f"Above the range of the chart: {join_names(above)}"
        if above
        else f"Memory needed for {plan.model.label}"
    )
    return heading(title, PREDICTED, sub=sub)


def _taking(place: int) -> Any:
    def take(offered: list[dict[str, Any]]) -> list[Any]:
        if place >= len(offered):
            return [gr.skip()] * len(CHANGED_BY_A_FIX)
        return [gr.update(value=offered[place][name]) for name in CHANGED_BY_A_FIX]

    return take


def _with_fixes(
    plan: Plan, found: dict[str, Prediction], changes: Sequence[tuple[Change, Prediction]]
) -> list[Any]:
    note = "" if changes else _NOTHING
    offered = [changed_fields(change.question) for change, _ in changes]
    buttons = [
        gr.update(value=change_label(change, answer, plan.card), visible=True)
        for change, answer in changes
    ]
    hidden = [gr.update(visible=False)] * (share.MOST_FIXES - len(buttons))
    verdict = _verdict(plan, found, note)
    return [verdict, _methods(plan, found), offered, *buttons, *hidden]


def _no_fixes() -> list[Any]:
    return [[], *([gr.update(visible=False)] * share.MOST_FIXES)]


def _verdict(plan: Plan, found: dict[str, Prediction], note: str | None = None) -> str:
    answer = found.get(plan.chosen.variant.method)
    if answer is None:
        return _addressed(plan, pending_html(plan.label, plan.model.label))
    if note is None:
        note = _SEARCHING if share.is_short(plan, found) else ""
    return _addressed(plan, verdict_html(plan, answer, note))


def _addressed(plan: Plan, html: str) -> str:
    """HTML: the verdict, with the address that opens it."""
    return html if plan.link is None else f"<div {address_of(**plan.link)}>{html}</div>"


def _methods(plan: Plan, found: dict[str, Prediction]) -> str:
    return methods_html(plan, found)


def _build_fields(form: Form, access: Access) -> None:
    names = "One of the list, a Hub id, or a folder" if access.may_ask_hub else "One of the list"
    head("Will it fit?", sub="From the model's shape alone: no weights, no GPU")
    form.setting(
        "plan_model", TARGET["model"], choices=model_choices(), value=START["model"], info=names,
        allow_custom_value=access.may_ask_hub,
    )  # fmt: skip
    with gr.Accordion("Paste a config.json", open=False, elem_classes="ft-fold"):
        form.add(
            "plan_config", gr.Textbox, label="config.json", lines=4, max_lines=12,
            placeholder='{"model_type": "llama", …}', elem_classes="ft-mono",
        )  # fmt: skip
    form.slot("plan_model")
    form.setting(
        "plan_card", TARGET["card"], choices=card_choices(), value=START["card"], info=None
    )
    form.setting("plan_price", TARGET["price"], info=None, placeholder="in any currency")
    form.slot("plan_card")
    form.add("plan_method", gr.Dropdown, method_choices(), value=START["method"], label="Method")
    started = {PREFIX + name: {"value": START[name]} for name in ON_FORM}
    form.settings({PREFIX + name: one for name, one in ON_FORM.items()}, started)
    form.slot("plan_step", "plan_variants")


TAB = TabSpec("Plan", 5, build, ADDRESS)
