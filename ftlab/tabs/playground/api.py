"""The playground's endpoint for programs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.basics.visitor_turns import NOBODY
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.panes import parse_names
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.playground.view import make_request


def add_endpoint(client: PlaygroundClient) -> None:
    """Adds `/generate` to the page that is being built."""

    def generate(
        prompt: str,
        runs: list[str] | str = "base",
        max_new_tokens: float = 96,
        temperature: float = 0.0,
        seed: float = 0,
        model: str = "",
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        system: str = "",
        mode: str = "chat",
        precision: str = "bf16",
        request: gr.Request | None = None,
    ) -> list[dict[str, Any]]:
        """Answers one prompt in one to six panes on one copy of the base model.

        Parameters:
            prompt: The user's turn, or in the mode "completion" the text to continue.
            runs: Pane names: "base", run ids, "shipped:sql", "adapter:ID"; a list, or text such as
                "base,RUN_ID"; at most 6.
            max_new_tokens: Maximum tokens of an answer, 1 to 1024.
            temperature: 0 is greedy; above 0, up to 2, the answer is sampled.
            seed: Sampling seed; every pane starts from the same seed.
            model: Base model; empty for that of the runs, or the bundled one.
            top_p: Samples from the most likely tokens whose probabilities sum to this value.
            repetition_penalty: 1 is none; up to 2 makes tokens that already occur less likely.
            system: System prompt; empty for that of the chat template.
            mode: "chat" formats as in training, "completion" is plain text.
            precision: Precision of the base weights: "bf16", "fp32" or "nf4".
        Returns:
            For each pane: pane, name, run_id, label, answer, tokens, tokens_per_second,
            first_token_seconds, swap_seconds, adapter_sha256, next_token (kl_nats, token,
            base_token, top1_changed), changes_nothing, note, error.
        """
        values = {
            "precision": precision,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "system": system,
        }
        try:
            _check_texts(prompt=prompt, model=model, system=system)
            _check_runs(runs)
            asked = make_request(prompt, model, mode, values, parse_names(runs))
            visitor = visitor_of(request) if request is not None else NOBODY
            return client.generate_all(asked, visitor=visitor)
        except FtlabError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(generate, api_name="generate", concurrency_limit=16)


def _check_texts(**values: Any) -> None:
    """Checks types, as JSON can hold any value."""
    for name, value in values.items():
        if not isinstance(value, str | None):
            raise FtlabError(f"{name.capitalize()}: {value} is no text; put it in quotes.")


def _check_runs(runs: Any) -> None:
    if not isinstance(runs, str | list):
        raise FtlabError(f"Runs: {runs} names no pane; give a list, or text as in 'base,RUN_ID'.")
