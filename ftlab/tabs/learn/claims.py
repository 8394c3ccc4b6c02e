"""Learn: claims of papers, tried on the small model, each with its interval and verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from ftlab.basics.errors import FtlabError
from ftlab.charts.claims import claim_figure
from ftlab.charts.html import chip, origin_chip
from ftlab.methods.spec import Paper
from ftlab.records.claims import (
    Claim,
    ClaimsProtocol,
    ClaimsRecord,
    Tried,
    Verdict,
    read_claims,
    read_protocol,
    to_try,
)
from ftlab.tabs.context import EXPERIMENT, AppContext, Asked, Links, opened
from ftlab.tabs.learn.parts import QUIET, code, papers, plot, said, stack, table
from ftlab.tabs.widgets import H, Markup, blank, escape, field_error, head, heading, live

_KINDS: dict[Verdict, str] = {
    "seen": "ok",
    "not seen": "bad",
    "cannot be seen at this size": "mute",
}
_NONE = blank(
    "This claim has not been tried yet.", "make claims tries all seven; it takes some hours."
)
_LEGEND = (
    '<p class="legend"><span>a point is the estimate, its line the 95 % interval; green are the '
    "values that agree with the claim, fixed before the runs</span></p>"
)


def view(
    protocol: ClaimsProtocol, record: ClaimsRecord | None, chosen: str
) -> tuple[str, go.Figure | None, str]:
    """HTML of the claim and its verdict, the figure, and HTML of how it was tried."""
    claim = next((c for c in protocol.claims if c.id == chosen), protocol.claims[0])
    tried = next((t for t in record.tried if t.id == claim.id), None) if record else None
    if tried is None or len(tried.estimates) < len(claim.estimates):
        return stack(_claim(claim, None), _NONE), None, _how(protocol, claim, None)
    return _claim(claim, tried), claim_figure(tried), _how(protocol, claim, record)


def _claim(claim: Claim, tried: Tried | None) -> str:
    mark = chip(tried.verdict, _KINDS[tried.verdict]) if tried else ""
    return stack(heading(claim.title, mark, sub=claim.says), papers(Paper(claim.paper, claim.url)))


def _how(protocol: ClaimsProtocol, claim: Claim, record: ClaimsRecord | None) -> str:
    """The runs behind the claim's estimates, and where they were made."""
    rows, labels = [], []
    for sweep in protocol.sweeps:
        used = {arm for one in claim.estimates if sweep.id in one.sweeps for arm in one.arms}
        for arm in (arm for arm in sweep.arms if arm.id in used):
            rate = record.rates.get(arm.best_of) if record else None
            variants = [replace(it, learning_rate=rate) if rate else it for it in arm.variants]
            labels += [variant.label for variant in variants]
            rates = f"{len(arm.rates)} rates" if len(arm.rates) > 1 else "its best rate"
            rates = f"{rate:g}" if rate else rates if arm.rates or arm.best_of else "its own"
            examples = f"{sweep.eval_examples} {sweep.eval_split.replace('_', ' ')}"
            rows.append([
                Markup(code(arm.variant)), str(sweep.steps), rates, str(len(sweep.seeds)), examples
            ])  # fmt: skip
    shown = table(
        ["method", "steps", "learning rate", "seeds", "examples"], rows, "Runs", tall=True
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in protocol.notes)
    where = ""
    if record is not None:
        machines = ", ".join(record.machines)
        where = said(
            Markup("{} on {}.").format(Markup(origin_chip("recorded")), machines),
            record.left_out(labels),
        )
    again = '<p class="meta"><code>make claims</code> makes it anew.</p>'
    return stack(shown, where, f'<ul class="notes">{notes}</ul>', again)


def build(context: AppContext, links: Links) -> None:
    """Builds the panel and its events."""
    protocol = read_protocol()
    with gr.Row(equal_height=True):
        with gr.Column(scale=2, min_width=260, elem_classes="ft-sheet"):
            head("Claims of papers, tried here", sub="Which of them does a small model show?")
            chosen = live(
                gr.Radio,
                [(claim.title, claim.id) for claim in protocol.claims],
                value=protocol.claims[0].id,
                label="Claim",
                show_label=False,
                container=False,
                elem_classes="ft-list",
            )
        with gr.Column(scale=3, min_width=340, elem_classes="ft-sheet"):
            claim = H()
            figure = plot(visible=False)
            legend = H(_LEGEND, visible=False)
            run = gr.Button("Run it on my model", size="sm", visible=context.access.may_train)
            how = H()

    def show(name: str) -> list[Any]:
        try:
            record = read_claims()
        except FtlabError as error:
            hidden = [gr.Plot(visible=False), gr.HTML(visible=False)]
            return [field_error([str(error)]), *hidden, ""]
        words, drawn, below = view(protocol, record, name)
        is_drawn = drawn is not None
        return [words, gr.Plot(value=drawn, visible=is_drawn), gr.HTML(visible=is_drawn), below]

    def take(name: str) -> list[Any]:
        found = next((one for one in protocol.claims if one.id == name), protocol.claims[0])
        return [Asked(to_try(protocol, found)), gr.Tabs(selected=EXPERIMENT)]

    outputs = [claim, figure, legend, how]
    gr.on([opened(), chosen.input], show, chosen, outputs, **QUIET)
    run.click(take, chosen, [links.clone, links.tabs], **QUIET)
