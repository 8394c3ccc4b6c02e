"""From a request to the answers that its lanes carry: formatted prompts, room, first updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.errors import FtlabError
from ftlab.playground.answers import Answer, Ending
from ftlab.playground.lanes import Lane
from ftlab.playground.protocol import GenerateRequest, PaneUpdate
from ftlab.playground.sampling import TokenChooser
from ftlab.playground.turns import BaseLogits, say
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.tasks.spec import Message

SendEach = Callable[[int, PaneUpdate], None]
"""Gets the prompt's place and the pane's update."""


class Desk:
    """Formats the prompts of one request for one base model."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: GenerateRequest,
        prompts: Sequence[str],
        send: SendEach,
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._formatter = PromptFormatter(TransformersTokenizer(tokenizer))
        self._request = request
        self._prompts = prompts
        self._send = send
        self._stop_ids = frozenset(self._formatter.stop_ids())
        self._device = next(base.parameters()).device
        self.pad_id = int(tokenizer.pad_token_id)

    def answers(self, pane: PaneUpdate, soft_tokens: int) -> list[Answer]:
        """One answer a prompt, to go on from the pane's first update (its place, note, hash).

        A prompt that the model has no room for is said in its pane.
        """
        answers = []
        for number, prompt in enumerate(self._prompts):
            send = partial(self._send, number)
            try:
                ids = self._prompt_ids(pane.pane, prompt)
                limit = min(self._request.max_new_tokens, self._room(len(ids), soft_tokens))
            except Exception as error:
                sentence = say(error, "The prompt could not be read")
                send(PaneUpdate(pane.pane, "error", sentence))
                continue
            answers.append(
                Answer(
                    prompt_ids=ids,
                    ending=Ending(self._stop_ids, limit),
                    chooser=TokenChooser(self._request, self._device),
                    tokenizer=self._tokenizer,
                    send=send,
                    draft=pane,
                    keeps_edges=self._request.mode == "completion",
                )
            )
        return answers

    def base_logits(self) -> BaseLogits:
        """The base's first logits, computed once for the same prompts."""
        known: dict[tuple[tuple[int, ...], ...], Tensor] = {}

        def logits(answers: Sequence[Answer]) -> Tensor:
            prompts = tuple(tuple(answer.prompt_ids) for answer in answers)
            if prompts not in known:
                known[prompts] = Lane(self._base, prompts, self.pad_id).prefill()
            return known[prompts]

        return logits

    def _prompt_ids(self, place: int, prompt: str) -> list[int]:
        if self._request.mode == "completion":
            return self._formatter.plain_ids(prompt)
        system = self._request.system.strip()
        first = [Message("system", system)] if system else []
        history = self._request.history(place)
        return self._formatter.prompt_ids([*first, *history, Message("user", prompt)])

    def _room(self, prompt: int, soft: int) -> int:
        """Tokens that still fit behind the prompt."""
        context = getattr(self._base.config, "max_position_embeddings", None)
        if context is None:
            return self._request.max_new_tokens
        if prompt + soft >= context:
            parts = f"{prompt:,} tokens" + (f" and {soft} soft tokens before it" if soft else "")
            raise FtlabError(
                f"The prompt has {parts}; the model's context is {context:,} tokens and the answer "
                "needs some of them, so shorten the prompt or begin a new chat."
            )
        return int(context) - prompt - soft
