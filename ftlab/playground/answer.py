"""One pane's answer: formatted as in training, generated token by token, streamed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from ftlab.errors import FtlabError
from ftlab.models.generation import (
    generation_inputs,
    greedy_config,
    left_padded,
    virtual_tokens,
)
from ftlab.playground.protocol import GenerateRequest, PaneUpdate
from ftlab.tasks.formatting import PromptFormatter
from ftlab.tasks.spec import Message
from ftlab.training.arithmetic import Arithmetic

SECONDS_BETWEEN_TEXTS = 0.05
"""A fast device makes more tokens than a page can show."""


@dataclass(frozen=True)
class Answering:
    """What is the same for all panes of one request."""

    request: GenerateRequest
    tokenizer: PreTrainedTokenizerBase
    formatter: PromptFormatter
    arithmetic: Arithmetic

    def prompt_ids(self) -> list[int]:
        return self.formatter.prompt_ids([Message("user", self.request.prompt)])

    def generation_config(self, max_new_tokens: int) -> GenerationConfig:
        """Greedy exactly as in training's evaluation, or plain sampling at the temperature."""
        config = greedy_config(
            max_new_tokens, self.formatter.stop_ids(), int(self.tokenizer.pad_token_id)
        )
        if self.request.temperature > 0:
            config.update(
                do_sample=True, temperature=float(self.request.temperature), top_k=0, top_p=1.0
            )
        return config


class _Stream(BaseStreamer):
    """Collects the tokens of one answer and sends the text that they make so far.

    `check` runs at each token; what it raises ends the generation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        send_text: Callable[[str, int], None],
        check: Callable[[], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._send_text = send_text
        self._check = check
        self._ids: list[int] = []
        self._prompt_seen = False
        self._began = self._first = self._last = time.perf_counter()
        self._sent = 0.0

    def put(self, value: Tensor) -> None:
        if not self._prompt_seen:  # `generate` begins with the prompt
            self._prompt_seen = True
            return
        self._check()
        self._last = time.perf_counter()
        if not self._ids:
            self._first = self._last
        self._ids.extend(value.flatten().tolist())
        if self._last - self._sent >= SECONDS_BETWEEN_TEXTS:
            self._sent = self._last
            # A character of several tokens decodes to U+FFFD until its last one is there.
            self._send_text(self.text().rstrip("\ufffd"), self.tokens)

    def end(self) -> None:
        pass

    def text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True)).strip()

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def first_token_seconds(self) -> float | None:
        return self._first - self._began if self._ids else None

    @property
    def tokens_per_second(self) -> float | None:
        took = self._last - self._first
        return (self.tokens - 1) / took if self.tokens > 1 and took > 0 else None


def answer(
    model: PreTrainedModel | PeftModel,
    answering: Answering,
    pane: int,
    send: Callable[[PaneUpdate], None],
    check: Callable[[], None],
    swap_seconds: float | None = None,
    note: str = "",
    sha256: str = "",
) -> None:
    """Sends "text" updates while the answer grows, and "done" with its numbers.

    Raises `FtlabError` for a prompt beyond the model's context, and whatever `check` raises.
    """
    prompt = answering.prompt_ids()
    room = _room(model, len(prompt))
    wanted = answering.request.max_new_tokens
    config = answering.generation_config(wanted if room is None else min(wanted, room))
    draft = PaneUpdate(pane, "text", "", note=note, adapter_sha256=sha256)
    device = answering.arithmetic.device
    # Set anew for each pane, so that no answer depends on the panes before it.
    torch.manual_seed(answering.request.seed)
    with torch.inference_mode(), answering.arithmetic.context():
        batch = left_padded([prompt], int(answering.tokenizer.pad_token_id), device)
        stream = _Stream(
            answering.tokenizer,
            lambda text, tokens: send(replace(draft, text=text, tokens=tokens)),
            check,
        )
        callee: Any
        callee, inputs = generation_inputs(model, batch)
        callee.generate(**inputs, generation_config=config, streamer=stream)
    send(
        replace(
            draft,
            kind="done",
            text=stream.text(),
            tokens=stream.tokens,
            tokens_per_second=stream.tokens_per_second,
            first_token_seconds=stream.first_token_seconds,
            swap_seconds=swap_seconds,
        )
    )


def _room(model: PreTrainedModel | PeftModel, prompt: int) -> int | None:
    """Tokens that still fit behind the prompt; `None` where the model names no limit."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    context = getattr(base.config, "max_position_embeddings", None)
    if context is None:
        return None
    soft = virtual_tokens(model)
    if prompt + soft >= context:
        parts = f"{prompt:,} tokens" + (f" and {soft} soft tokens before it" if soft else "")
        raise FtlabError(
            f"The prompt has {parts}; the model's context is {context:,} tokens and the answer "
            "needs some of them, so shorten the prompt."
        )
    return int(context) - prompt - soft
