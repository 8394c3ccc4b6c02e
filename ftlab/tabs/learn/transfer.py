"""Learn: whether a small run predicts the order that long runs of a large model have."""

from __future__ import annotations

from typing import Any, get_args

import gradio as gr
import plotly.graph_objects as go

from ftlab.basics.errors import FtlabError
from ftlab.basics.units import format_count
from ftlab.charts.html import origin_chip
from ftlab.charts.transfer import transfer_figure
from ftlab.methods.families.full import FULL
from ftlab.methods.families.lora import LORA
from ftlab.methods.spec import Paper
from ftlab.records.claims import ClaimsRecord, read_claims
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.rank_agreement import RankAgreement
from ftlab.records.transfer import (
    WHICH,
    StudiedColumn,
    TransferRecord,
    Which,
    far_apart,
    read_transfer,
)
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import QUIET, code, papers, plot, said, stack, table
from ftlab.tabs.widgets import H, Markup, blank, escape, field_error, head, live, named

_TABLE = Paper(
    "PEFT's method comparison, MetaMathQA with Llama-3.2-3B",
    "https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA",
)
FOUR_BITS = "four_bits"
"""The claim about a base in 4 bits."""

_NONE = blank("The study has not been run.", "make transfer runs it; it takes some hours.")

_LEGEND = (
    '<p class="legend"><span>on the dotted line a method has the same place in both tables; a bar '
    "goes from the best to the worst place that its seeds have</span></p>"
)


def view(
    record: TransferRecord | None, claims: ClaimsRecord | None, column: str, which: Which
) -> tuple[str, go.Figure | None, str]:
    """HTML of the finding, the figure, and HTML of the table; the empty state without a record."""
    if record is None:
        return _NONE, None, ""
    studied = record.column(column)
    agreed = record.agreements.get(column, {}).get(which)
    if agreed is None:
        return said("Too few methods were measured to compare both tables."), None, ""
    placed = record.placed(studied, which)
    metric = METRICS[studied.ours]
    rows = [
        [
            Markup(named(one.method)),
            metric.format(one.mean),
            f"{one.theirs:.3f}",
            f"{one.our_rank:g}",
            f"{one.their_rank:g}",
        ]
        for one in placed
    ]
    notes = far_apart(placed), not_carried(record), of_four_bits(claims)
    heads = ["method", f"{metric.name} here", _published(studied), "place here", "place there"]
    below = stack(
        table(heads, rows, "Each method in both tables", tall=True),
        said(*(note for note in notes if note)),
        _made(record),
    )
    return said(finding(agreed, metric)), transfer_figure(record, column, which), below


def finding(agreed: RankAgreement, metric: MetricSpec) -> str:
    """What the correlation says, with its interval."""
    if agreed.low > 0:
        verdict = "The two orders agree more than by chance"
    elif agreed.high < 0:
        verdict = "The two orders are opposite"
    else:
        verdict = "That the two orders agree is not shown"
    return (
        f"{verdict} (by {metric.name}): Spearman's correlation is {agreed.sentence}. "
        "1 is the same order, 0 none."
    )


def not_carried(record: TransferRecord) -> str:
    """Whether LoRA forgets less than full fine-tuning, here and there, with the numbers."""
    forgetting = next((c for c in record.protocol.columns if c.published == "forgetting"), None)
    if forgetting is None:
        return ""
    placed = {one.method: one for one in record.placed(forgetting, "default")}
    if LORA.id not in placed or FULL.id not in placed:
        return ""
    lora, full = placed[LORA.id], placed[FULL.id]
    same = (lora.mean < full.mean) == (lora.theirs < full.theirs)
    metric = METRICS[forgetting.ours]
    return (
        f"LoRA against full fine-tuning in forgetting: {metric.format(lora.mean)} and "
        f"{metric.format(full.mean)} here, {lora.theirs:.3f} and {full.theirs:.3f} in the "
        f"published table. This {'carries' if same else 'does not carry'} over."
    )


def of_four_bits(claims: ClaimsRecord | None) -> str:
    """What QLoRA's base costs in loss here, which the published table has no row of; "" if that
    was not measured."""
    tried = next((t for t in claims.tried if t.id == FOUR_BITS), None) if claims else None
    if tried is None or not tried.estimates:
        return ""
    loss = tried.estimates[0]
    ends = f"{loss.value:+.0%} ({loss.low:+.0%} to {loss.high:+.0%})"
    carries = {
        "seen": "",
        "not seen": " This does not carry over.",
        "cannot be seen at this size": " The interval is too wide to show whether it carries over.",
    }[tried.verdict]
    return (
        "QLoRA has no row in the published table. Here its 4-bit base changes the test loss by "
        f"{ends} against LoRA; the QLoRA paper saw no loss with 7B to 65B.{carries}"
    )


def _published(column: StudiedColumn) -> str:
    return "GSM8K, published" if column.published == "test_accuracy" else "forgetting, published"


def _made(record: TransferRecord) -> str:
    protocol = record.protocol
    notes = "".join(f"<li>{escape(note)}</li>" for note in protocol.notes)
    how = (
        f"Here: the bundled model of 135M, {protocol.steps} steps on {protocol.task.upper()}, "
        f"{format_count(protocol.eval_examples)} test examples, {len(protocol.seeds)} seeds; "
        f"on {', '.join(record.machines)}. There: {protocol.published}."
    )
    return (
        f'<div class="lesson"><p>{origin_chip("recorded")} {escape(how)}</p></div>'
        f'<ul class="notes">{notes}</ul>'
        f'<p class="meta">{code("make transfer")} makes it anew; docs/evidence.md has all '
        f"columns.</p>{papers(_TABLE)}"
    )


def build(context: AppContext) -> None:
    """Builds the panel and its events."""
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
            head(
                "Does the small run predict the large?",
                sub="20 methods trained for a minute each on the small bundled model, beside "
                "PEFT's published runs of a model 22 times as large",
            )
            with gr.Row(elem_classes="ft-map-tools"):
                column = _choice(
                    [("Score", "score"), ("Loss", "loss"), ("Forgetting", "forgetting")],
                    "What is compared",
                )
                which = _choice(
                    [(f"Against {words}", id) for id, words in WHICH.items()],
                    "Which published row of a method",
                )
            found = H()
            figure = plot(visible=False)
            H(_LEGEND)
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
            head("Each method in both tables", sub="place 1 is the best")
            beside = H()

    def show(chosen: str, row: str) -> list[Any]:
        try:
            record, claims = read_transfer(), read_claims()
        except FtlabError as error:
            return [field_error([str(error)]), gr.Plot(visible=False), ""]
        known = [one.id for one in record.protocol.columns] if record else []
        words, drawn, below = view(
            record,
            claims,
            chosen if chosen in known or not known else known[0],
            next((one for one in get_args(Which) if one == row), "default"),
        )
        return [words, gr.Plot(value=drawn, visible=drawn is not None), below]

    outputs = [found, figure, beside]
    gr.on([opened(), column.input, which.input], show, [column, which], outputs, **QUIET)


def _choice(options: list[tuple[str, str]], label: str) -> gr.Radio:
    radio: gr.Radio = live(
        gr.Radio,
        options,
        value=options[0][1],
        label=label,
        show_label=False,
        container=False,
        elem_classes="ft-seg",
    )
    return radio
