"""The components of the Playground tab; `playground` wires them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.playground.protocol import PRECISIONS
from ftlab.playground.validation import MAX_PANES
from ftlab.ui.html import H, live
from ftlab.ui.playground.session import SINGLE
from ftlab.ui.playground.view import EXAMPLES, FIRST_PANES, MODES, PRECISION_NOTE

AGAINST = [("Differences: off", -1)] + [(f"Against pane {n + 1}", n) for n in range(MAX_PANES)]


@dataclass(frozen=True)
class AskBar:
    """The components above the panes."""

    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    prompt_error: gr.HTML
    examples: list[gr.Button]
    mode: gr.Radio
    model: gr.Dropdown
    against: gr.Dropdown
    blind: gr.Checkbox
    fresh: gr.Button
    folded: gr.Accordion
    settings: list[Any]
    settings_error: gr.HTML


@dataclass(frozen=True)
class PanePool:
    """The fixed pool of panes, and what chooses among them."""

    count: gr.Radio
    bring: gr.UploadButton
    forget: gr.Button
    engine: gr.HTML
    unload: gr.Button
    error: gr.HTML
    columns: list[gr.Column]
    choosers: list[gr.Dropdown]
    vouchers: list[gr.Button]
    answers: list[gr.HTML]
    room: gr.Radio
    newcomer: gr.State


def build_ask_bar(models: list[tuple[str, str]], model: str, may_vote: bool = True) -> AskBar:
    with gr.Row(elem_classes="ft-ask"):
        prompt = live(
            gr.Textbox,
            label="Prompt",
            show_label=False,
            container=False,
            placeholder="One prompt for all panes; Shift+Enter sends it",
            lines=3,
            max_lines=8,
            scale=1,
            min_width=240,
            elem_id="pg-prompt",
        )
        with gr.Column(scale=0, min_width=92):
            send = gr.Button("Send", variant="primary", elem_id="pg-send")
            stop_button = gr.Button("Stop", variant="stop", size="sm", elem_id="pg-stop")
    prompt_error = H("")
    with gr.Row(elem_classes="ft-tools"):
        examples = [
            gr.Button("…", size="sm", scale=0, min_width=290, visible=False)
            for _ in range(EXAMPLES)
        ]
    with gr.Row(elem_classes="ft-tools"):
        bare: dict[str, Any] = {"show_label": False, "container": False, "scale": 0}
        mode = live(
            gr.Radio,
            MODES,
            value=SINGLE,
            label="Mode",
            elem_classes="ft-seg",
            min_width=270,
            **bare,
        )
        model_choice = live(
            gr.Dropdown, models, value=model, label="Base model", visible=len(models) > 1,
            min_width=240, **bare,
        )  # fmt: skip
        against = live(
            gr.Dropdown, AGAINST, value=-1, label="Differences against", min_width=170, **bare
        )
        blind = live(
            gr.Checkbox, False, label="Blind vote", container=False, scale=0, min_width=110,
            visible=may_vote,
        )  # fmt: skip
        fresh = gr.Button("New chat", size="sm", scale=0, min_width=90, visible=False)
    with gr.Accordion("Settings", open=False, elem_classes="ft-fold") as folded:
        settings = _settings()
    settings_error = H("")
    return AskBar(
        prompt, send, stop_button, prompt_error, examples, mode, model_choice, against, blind,
        fresh, folded, settings, settings_error,
    )  # fmt: skip


def _settings() -> list[Any]:
    """One component for each of `SETTINGS`."""
    with gr.Row(elem_classes="ft-params"):
        precision = live(
            gr.Dropdown, [(label, key) for key, label in PRECISIONS.items()], value="bf16",
            label="Base held in", min_width=110,
        )  # fmt: skip
        numbers = [
            live(gr.Number, value, label=label, min_width=110, step=step)
            for value, label, step in (
                (96, "New tokens at most", 1),
                (0, "Temperature (0: greedy)", 0.1),
                (1, "Top-p (1: all tokens)", 0.05),
                (1, "Repetition penalty (1: none)", 0.05),
                (0, "Seed of the sampling", 1),
            )
        ]
    system = live(
        gr.Textbox, "", label="System prompt (empty: the template's own)", lines=1, max_lines=4
    )
    H(f'<p class="meta">{PRECISION_NOTE}</p>')
    return [precision, *numbers, system]


def build_pane_pool(
    choices: list[tuple[str, str]], chosen: Sequence[str], may_bring: bool = True
) -> PanePool:
    with gr.Row(elem_classes="ft-tools"):
        count = live(
            gr.Radio, [(str(n), n) for n in range(1, MAX_PANES + 1)], value=FIRST_PANES,
            label="Panes", show_label=False, container=False, elem_classes="ft-seg", scale=0,
            min_width=200, elem_id="pg-count",
        )  # fmt: skip
        bring = gr.UploadButton(
            "Bring an adapter …", size="sm", scale=0, min_width=140, file_count="multiple",
            file_types=[".zip", ".json", ".safetensors"], visible=may_bring,
        )  # fmt: skip
        forget = gr.Button("Forget it", size="sm", scale=0, min_width=80, visible=False)
        engine = H("", min_width=150)
        unload = gr.Button("Unload", size="sm", scale=0, min_width=76, visible=False)
    error = H("")
    room = live(
        gr.Radio, [], label="Who makes room?", visible=False, elem_id="pg-room",
    )  # fmt: skip
    columns, choosers, vouchers, answers = [], [], [], []
    with gr.Row(equal_height=True, elem_classes="ft-panes"):
        for place in range(MAX_PANES):
            with gr.Column(
                min_width=210, elem_classes="ft-sheet ft-pane", visible=place < FIRST_PANES
            ) as column:
                choosers.append(
                    live(
                        gr.Dropdown, choices, value=chosen[place], label=f"Pane {place + 1}",
                        show_label=False, container=False, elem_id=f"pg-pane-{place + 1}",
                    )
                )  # fmt: skip
                vouchers.append(
                    gr.Button(
                        "It was trained on this base", size="sm", visible=False,
                        elem_id=f"pg-vouch-{place + 1}",
                    )
                )  # fmt: skip
                answers.append(H(elem_id=f"pg-answer-{place + 1}"))
            columns.append(column)
    return PanePool(
        count, bring, forget, engine, unload, error, columns, choosers, vouchers, answers, room,
        gr.State(""),
    )  # fmt: skip
