"""Sharing a plan: the card, the report as one file, and the link, all from predictions.

A file shows what the page shows: it is made from answers that are already known.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.basics.devices import AUTO, resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.charts.predicted import predicted_finding
from ftlab.prediction.fit import CARDS, Change, fit, fitting
from ftlab.prediction.question import Prediction, Question
from ftlab.prediction.remedies import calibration
from ftlab.share.plan import Planned, plan_card, plan_report
from ftlab.share.report import file_stem, write_card, write_report
from ftlab.tabs.compare.share import picture_html
from ftlab.tabs.context import DOWNLOAD, QUIET, AppContext, FilesAVisitor, one_at_a_time
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.plan.request import Plan, read_plan
from ftlab.tabs.plan.view import PREDICTED
from ftlab.tabs.widgets import H, escape, heading, note_html, small_button

MOST_FIXES = 3
_TITLE = heading(
    "Show it to others",
    PREDICTED,
    sub="The card fits a slide. The report is one file: it opens without a network, prints to PDF, "
    "and says how each number was predicted.",
)
_NO_LINK = (
    "There is no link to this plan: a pasted config.json is too long for one, and a folder is only "
    "on this machine. Send the card or the report."
)
_NO_CARD = note_html("The card is drawn when every method is predicted.")
_COPY = "() => window.ft.address.copy(document.getElementById('plan-link'))"
_KINDS = (("Card as PNG", "png"), ("Card as SVG", "svg"), ("Report as HTML", "html"))


OUTPUTS = len(_KINDS) + 3
"""Number of components of the sheet that `updates` updates."""


def updates(plan: Plan, planned: Planned | None) -> list[Any]:
    """Returns the updates of the sheet; `planned` is `None` until every method is predicted."""
    is_done = planned is not None
    return [
        *[gr.update(interactive=is_done)] * len(_KINDS),
        gr.update(interactive=plan.link is not None),
        note_html(_NO_LINK if plan.link is None else ""),
        _NO_CARD if planned is None else picture_html(plan_card(planned)),
    ]


def build(context: AppContext, form: Form) -> list[Any]:
    """Builds the sheet with the card, the download buttons and the link.

    Returns its components that `updates` updates, in the same order.
    """
    with gr.Column(elem_classes="ft-sheet ft-share"):
        H(_TITLE)
        with gr.Row(elem_classes="ft-tools"):
            buttons = [
                small_button(
                    label, 116, elem_id=f"plan-{kind}", interactive=False,
                    variant="primary" if kind == "html" else "secondary",
                )
                for label, kind in _KINDS
            ]  # fmt: skip
            link = small_button("Copy link", 96, elem_id="plan-link")
        note, picture = H(), H(elem_id="plan-card")
    link.click(fn=None, js=_COPY, api_visibility="private")
    fields, files = list(form.components.values()), FilesAVisitor()
    for button, (_, kind) in zip(buttons, _KINDS, strict=True):
        file = gr.DownloadButton(elem_classes="ft-carrier")
        made = button.click(
            _maker(context, form, kind, files), fields, file, **one_at_a_time("share")
        )
        made.success(None, file, None, js=DOWNLOAD, **QUIET)
    return [*buttons, link, note, picture]


def planned_of(
    plan: Plan,
    found: Mapping[str, Prediction],
    changes: Sequence[tuple[Change, Prediction]] = (),
) -> Planned:
    """Returns the plan with its predictions by method id, which must be complete."""
    asked = plan.questions
    return Planned(
        plan.model.label, plan.model_name, plan.card, plan.step, tuple(asked.values()),
        tuple(found[method] for method in asked), tuple(changes),
    )  # fmt: skip


def share_file(context: AppContext, kind: str, values: Mapping[str, Any]) -> Path:
    """Writes the card ("png", "svg") or the report ("html") of the fields' plan for download.

    Raises `FtlabError` for invalid fields, and while predictions are missing.
    """
    plan = read_plan(values, context.access)
    known = {method: context.predictor.known(one) for method, one in plan.questions.items()}
    found = {method: answer for method, answer in known.items() if answer is not None}
    if len(found) < len(known):
        raise FtlabError(
            "Not every method of this plan is predicted yet; wait for the table, then press again."
        )
    planned = planned_of(plan, found, _known_changes(context, plan, found))
    folder = Path(get_upload_folder()) / "ftlab" / secrets.token_hex(8)
    folder.mkdir(parents=True)
    what = "report" if kind == "html" else "card"
    names = (planned.gpu.id, planned.chosen.label, planned.model)
    path = folder / f"{file_stem(f'plan-{what}', *names)}.{kind}"
    if kind == "html":
        write_report(path, plan_report(planned, _measured(context)))
    else:
        write_card(path, plan_card(planned))
    return path


def _known_changes(
    context: AppContext, plan: Plan, found: Mapping[str, Prediction]
) -> list[tuple[Change, Prediction]]:
    """Returns the changes that the page offers."""

    def known(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        for place, question in enumerate(questions):
            answer = context.predictor.known(question)
            if answer is not None:
                yield place, answer

    if not is_short(plan, found):
        return []
    return fitting(plan.chosen, plan.card, known, MOST_FIXES, CARDS)


def is_short(plan: Plan, found: Mapping[str, Prediction]) -> bool:
    """Whether the chosen method is predicted not to fit."""
    answer = found.get(plan.chosen.variant.method)
    peak = answer.peak_reserved_bytes if answer else None
    return peak is not None and fit(peak, plan.card).verdict == "does not fit"


def _measured(context: AppContext) -> str:
    """How far predictions were off on this machine's GPU, which counts the bytes predicted here."""
    device = resolve_device(AUTO)
    seen = calibration(context.store.runs(), device).seen
    return predicted_finding(seen) if seen and device.is_gpu else ""


def _maker(context: AppContext, form: Form, kind: str, files: FilesAVisitor) -> Callable[..., str]:
    def make_plan_file(request: gr.Request, *given: Any) -> str:
        try:
            files.check(request)
            return str(share_file(context, kind, form.values(given)))
        except FtlabError as error:
            # Escaped, as gradio renders the message as HTML.
            raise gr.Error(str(escape(str(error))), print_exception=False) from None

    return make_plan_file
