"""The playground's endpoint for programs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.basics.visitor_turns import NOBODY
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.panes import parse_names
from ftlab.settings.generation import GenerationSettings
from ftlab.tabs.context import check_texts, errors_for_caller
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.playground.view import make_request

_DEFAULTS = GenerationSettings()


def add_endpoint(client: PlaygroundClient) -> None:
    """Adds `/generate` to the page that is being built."""

    def generate(
        prompt: str,
        runs: list[str] | str = "base",
        max_new_tokens: float = _DEFAULTS.max_new_tokens,
        temperature: float = _DEFAULTS.temperature,
        seed: float = _DEFAULTS.seed,
        model: str = "",
        top_p: float = _DEFAULTS.top_p,
        repetition_penalty: float = _DEFAULTS.repetition_penalty,
        system: str = _DEFAULTS.system,
        mode: str = _DEFAULTS.mode,
        precision: str = _DEFAULTS.precision,
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
        with errors_for_caller():
            check_texts(prompt=prompt, model=model or "")
            if not isinstance(runs, str | list):
                raise FtlabError(
                    f"Runs: {runs} names no pane; give a list, or text as in 'base,RUN_ID'."
                )
            asked = make_request(prompt, model, mode, values, parse_names(runs))
            visitor = visitor_of(request) if request is not None else NOBODY
            return client.generate_all(asked, visitor=visitor)

    gr.api(generate, api_name="generate", concurrency_limit=16)
