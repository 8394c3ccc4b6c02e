"""The Playground tab: one prompt, the base and up to three runs, answers side by side.

Here are the components and their wiring; what they show comes from `playground_view`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.context import Context

from ftlab.errors import FtlabError
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.protocol import MAX_PANES
from ftlab.ui.context import AppContext
from ftlab.ui.html import H, blank, live
from ftlab.ui.playground_view import (
    EXAMPLES,
    describe_settings,
    example_prompts,
    idle_html,
    make_request,
    read_runs,
    setup,
    short_prompt,
    stopped_html,
    stream,
)

_EMPTY = blank(
    "No finished run to compare with yet.",
    "Open Experiment and press Launch; each run that is done can answer here. "
    "Until then the base model answers alone.",
)
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(context: AppContext) -> None:
    """Lays out the tab and wires it; to be called inside the tab."""
    store, client = context.store, context.playground
    start = setup(store.runs())
    with gr.Column(elem_classes="ft-sheet"):
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
                stop = gr.Button("Stop", variant="stop", size="sm", elem_id="pg-stop")
        prompt_error = H("")
        prompts = gr.State([])
        with gr.Row(elem_classes="ft-tools"):
            examples = [
                gr.Button("…", size="sm", scale=0, min_width=290, visible=False)
                for _ in range(EXAMPLES)
            ]
            model = live(
                gr.Dropdown,
                start.models,
                value=start.model,
                label="Base model",
                show_label=False,
                container=False,
                visible=len(start.models) > 1,
                scale=0,
                min_width=240,
            )
        with gr.Accordion(describe_settings(96, 0, 0), open=False) as folded, gr.Row():
            settings = [
                live(gr.Number, 96, label="New tokens at most", min_width=110),
                live(gr.Number, 0, label="Temperature (0: greedy)", min_width=110, step=0.1),
                live(gr.Number, 0, label="Seed of the sampling", min_width=110),
            ]
        settings_error = H("")
    empty = H(_EMPTY, visible=not start.has_runs)
    choice_error = H("")
    choosers, answers = [], []
    with gr.Row(equal_height=True, elem_classes="ft-panes"):
        for place in range(MAX_PANES):
            with gr.Column(min_width=230, elem_classes="ft-sheet ft-pane"):
                choosers.append(
                    live(
                        gr.Dropdown,
                        start.choices,
                        value=start.panes[place],
                        label=f"Pane {place + 1}",
                        show_label=False,
                        container=False,
                        elem_id=f"pg-pane-{place + 1}",
                    )
                )
                answers.append(H(elem_id=f"pg-answer-{place + 1}"))

    screen = [prompt_error, settings_error, choice_error, *answers]

    def refresh(model: str | None, *panes: str | None) -> list[Any]:
        now = setup(store.runs(), model, panes)
        return [
            gr.update(choices=now.models, value=now.model, visible=len(now.models) > 1),
            gr.update(visible=not now.has_runs),
            *[gr.update(choices=now.choices, value=pane) for pane in now.panes],
        ]

    def choose(*panes: str | None) -> list[Any]:
        runs = store.runs()
        texts = example_prompts(runs, panes)
        by_id = {run.run_id: run for run in runs}
        buttons = [gr.update(value=short_prompt(text), visible=True) for text in texts]
        buttons += [gr.update(visible=False)] * (EXAMPLES - len(texts))
        return [texts, *buttons, *[idle_html(pane, by_id) for pane in panes]]

    def ask(prompt: str, model: str, *rest: Any) -> Iterator[list[Any]]:
        panes, values = rest[:MAX_PANES], rest[MAX_PANES:]
        last: list[Any] = [None] * len(screen)
        request = make_request(prompt, model, panes, *values)
        for now in stream(client, store.runs(), request, panes):
            new = [now.prompt, now.settings, now.choice, *now.panes]
            yield [gr.skip() if a == b else a for a, b in zip(new, last, strict=True)]
            last = new

    chosen: dict[str, Any] = {
        "inputs": choosers,
        "outputs": [prompts, *examples, *answers],
        **_PRIVATE,
    }
    wiring: dict[str, Any] = {
        "inputs": [model, *choosers],
        "outputs": [model, empty, *choosers],
        **_PRIVATE,
    }
    opened = [block.select for block in [Context.block] if isinstance(block, gr.Tab)]
    page = Context.root_block
    gr.on([*opened, *([page.load] if isinstance(page, gr.Blocks) else [])], refresh, **wiring)
    if isinstance(page, gr.Blocks):
        page.load(choose, **chosen)
    model.input(refresh, **wiring)
    gr.on([chooser.change for chooser in choosers], choose, trigger_mode="always_last", **chosen)
    for place, button in enumerate(examples):
        button.click(lambda texts, place=place: texts[place], prompts, prompt, **_PRIVATE)
    gr.on(
        [setting.change for setting in settings],
        lambda *values: gr.update(label=describe_settings(*values)),
        settings,
        folded,
        **_PRIVATE,
    )
    answering = gr.on(
        [send.click, prompt.submit],
        ask,
        [prompt, model, *choosers, *settings],
        screen,
        concurrency_limit=16,  # the client lets them answer one at a time, and says who waits
        **_PRIVATE,
    )
    stop.click(
        lambda *shown: [stopped_html(html) for html in shown],
        answers,
        answers,
        cancels=[answering],
        **_PRIVATE,
    )
    _add_endpoint(client)


def _add_endpoint(client: PlaygroundClient) -> None:
    def generate(
        prompt: str,
        runs: list[str] | str = "base",
        max_new_tokens: float = 96,
        temperature: float = 0.0,
        seed: float = 0,
        model: str = "",
    ) -> list[dict[str, Any]]:
        """Answers one prompt with the base model and up to three runs, one after the other.

        Parameters:
            prompt: The user's turn; formatted with the model's chat template as in training.
            runs: Pane names, "base" or run ids: a list, or text as in "base,RUN_ID"; at most 4.
            max_new_tokens: Tokens of an answer at most, 1 to 1024.
            temperature: 0 is greedy; above it, up to 2, the answer is sampled.
            seed: Seed of the sampling; each pane starts from it anew.
            model: Base model; empty for the runs' own, or the bundled one.
        Returns:
            For each pane: pane, run_id, label, answer, tokens, tokens_per_second,
            first_token_seconds, adapter_sha256, note, error.
        """
        request = make_request(prompt, model, read_runs(runs), max_new_tokens, temperature, seed)
        try:
            return client.generate_all(request)
        except FtlabError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(generate, api_name="generate", concurrency_limit=16)
