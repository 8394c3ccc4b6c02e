"""The next token of a row: greedy, or drawn with the row's own generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ftlab.playground.protocol import GenerateRequest


class TokenChooser:
    """Chooses one row's tokens. The seed is the row's own, so no answer depends on its neighbours.

    Penalty, temperature and top-p are transformers' own and come in the order of its `generate`.
    """

    def __init__(self, request: GenerateRequest, device: torch.device) -> None:
        self._draws = request.temperature > 0
        self._processors = LogitsProcessorList()
        if request.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(float(request.repetition_penalty))
            self._processors.append(penalty)
        if self._draws and request.temperature != 1:
            self._processors.append(TemperatureLogitsWarper(float(request.temperature)))
        if self._draws and request.top_p < 1:
            self._processors.append(TopPLogitsWarper(float(request.top_p)))
        self._generator = torch.Generator(device).manual_seed(request.seed)

    @property
    def is_plain(self) -> bool:
        """Whether it takes the likeliest token, whatever came before."""
        return not self._draws and not self._processors

    def choose(self, logits: Tensor, seen: Sequence[int]) -> int:
        """The next token id; `logits` is (vocabulary,), `seen` prompt and answer so far."""
        scores = logits[None]
        if self._processors:
            ids = torch.tensor(seen, device=logits.device)[None]
            scores = self._processors(cast(LongTensor, ids), cast(FloatTensor, scores))
        if not self._draws:
            return int(scores.argmax())
        probabilities = scores.softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def divergence(logits: Tensor, base: Tensor) -> float:
    """KL(softmax(logits) || softmax(base)) in nats, of two rows of fp32 logits.

    NaN where a model's logits are: that is not the base's distribution.
    """
    own, other = logits.double().log_softmax(-1), base.double().log_softmax(-1)
    terms = torch.where(own == -torch.inf, 0.0, own.exp() * (own - other))
    return float(terms.sum().clamp(min=0.0))
