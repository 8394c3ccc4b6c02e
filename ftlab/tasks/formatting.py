"""Formats examples as token ids with loss on the completion only, and puts them in order.

The order is equal for all variants.

Prompt and completion are tokenised separately, so that no token spans both, and nothing after the
end-of-turn token is kept. An example that is too long is left out, never truncated. Training,
scoring, preview and playground all use this module. It does not import torch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftlab.basics.errors import FtlabError
from ftlab.models.files import read_model_json, read_model_text
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.spec import Example, Message


class TextTokenizer(Protocol):
    """The tokenizer interface that formatting uses."""

    eos_token: str | None
    has_template: bool

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """Renders the messages with the chat template."""

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        """Returns the token ids of each text; one call for all is several times as fast."""


@dataclass(frozen=True)
class FormattedExample:
    """One example as the model receives it; only the completion contributes to the loss."""

    prompt_text: str
    completion_text: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """The number of tokens of prompt and completion together."""
        return len(self.prompt_ids) + len(self.completion_ids)


class PromptFormatter:
    """Formats examples for one model.

    Without a chat template the turns are paragraphs between the start and end-of-text tokens.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.end_of_turn = self._find_end_of_turn()

    @property
    def has_template(self) -> bool:
        return self._tokenizer.has_template

    def prompt_text(self, prompt: Sequence[Message]) -> str:
        if not self.has_template:
            return "\n\n".join(message.content for message in prompt) + "\n\n"
        turns = [{"role": message.role, "content": message.content} for message in prompt]
        return self._render(turns, add_generation_prompt=True)

    def prompt_ids(self, prompt: Sequence[Message]) -> list[int]:
        """Token ids of the prompt, up to the start of the answer."""
        return self._prompt_ids([self.prompt_text(prompt)])[0]

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text to continue, without a template."""
        return self._tokenizer.encode([text], add_special_tokens=True)[0]

    def completion_text(self, completion: str) -> str:
        return completion.strip() + self.end_of_turn

    def format(self, example: Example) -> FormattedExample:
        return self.format_all([example])[0]

    def format_all(self, examples: Sequence[Example]) -> list[FormattedExample]:
        """Formats the examples, in order."""
        prompts = [self.prompt_text(example.prompt) for example in examples]
        completions = [self.completion_text(example.completion) for example in examples]
        encoded = self._tokenizer.encode(completions, add_special_tokens=False)
        return [
            FormattedExample(prompt, completion, tuple(prompt_ids), tuple(completion_ids))
            for prompt, completion, prompt_ids, completion_ids in zip(
                prompts, completions, self._prompt_ids(prompts), encoded, strict=True
            )
        ]

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode(prompts, add_special_tokens=not self.has_template)

    def stop_ids(self) -> list[int]:
        """The token ids that end an answer."""
        texts = dict.fromkeys([self.end_of_turn, self._tokenizer.eos_token or ""])
        ids = self._tokenizer.encode([text for text in texts if text], add_special_tokens=False)
        return [tokens[-1] for tokens in ids if tokens]

    def _find_end_of_turn(self) -> str:
        """The text that the template adds after an assistant's turn, else the end-of-text token."""
        eos = self._tokenizer.eos_token or ""
        if not self.has_template:
            return eos
        question = [{"role": "user", "content": "Q"}]
        before = self._render(question, add_generation_prompt=True)
        whole = self._render(
            [*question, {"role": "assistant", "content": "A"}], add_generation_prompt=False
        )
        if not whole.startswith(before + "A"):
            return eos
        return whole[len(before) + 1 :].strip() or eos

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return self._tokenizer.render(messages, add_generation_prompt)
        except Exception as error:  # a model's template may raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise FtlabError(
                f"The model's chat template refuses these turns ({roles}): {error}"
            ) from error


class FileTokenizer:
    """A tokenizer read from `tokenizer.json` without torch, for previews in the web process."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise FtlabError(f"'{folder.name}' has no tokenizer.json; no preview of its tokens.")
        self._tokenizer = Tokenizer.from_file(str(file))
        config_file = folder / "tokenizer_config.json"
        config = read_model_json(config_file) if config_file.is_file() else {}
        self._special = {
            name: _token_text(config.get(name))
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        self.eos_token = self._special["eos_token"]
        self._template = _read_template(folder, config)
        self.has_template = self._template is not None

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        special: dict[str, Any] = {k: v for k, v in self._special.items() if v is not None}
        rendered: Any = render_jinja_template(
            conversations=[messages],
            chat_template=self._template,
            add_generation_prompt=add_generation_prompt,
            **special,
        )
        return str(rendered[0][0])  # texts, then masks of generated tokens

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return [list(one.ids) for one in encoded]


class TransformersTokenizer:
    """Wraps a transformers tokenizer, for the training and generating processes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token: str | None = tokenizer.eos_token
        self.has_template = bool(tokenizer.chat_template)

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        )

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        if not texts:  # transformers refuses an empty list
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=add_special_tokens)
        return [list(ids) for ids in encoded["input_ids"]]


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_model_text(file)
    template = config.get("chat_template")
    if isinstance(template, list):  # some models have several named templates
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


class TooLong(FtlabError):
    """Raised if no example is short enough."""


@dataclass(frozen=True)
class EncodedSet:
    """The examples that fit, in order; `dropped` is the number of those that are too long."""

    examples: tuple[Example, ...]
    formatted: tuple[FormattedExample, ...]
    dropped: int

    def note(self, name: str, max_length: int) -> str:
        """A sentence on the dropped examples, or "" if none were dropped."""
        if not self.dropped:
            return ""
        total = self.dropped + len(self.examples)
        return (
            f"{self.dropped} of {total} {name} examples are longer than {max_length} tokens and "
            "were left out; raise the maximum length to use them."
        )


def encode(
    formatter: PromptFormatter, examples: Sequence[Example], max_length: int, name: str
) -> EncodedSet:
    """Formats the examples and leaves out, never truncates, those longer than `max_length`.

    Raises `TooLong` if none is left, `FtlabError` if an answer has no tokens.
    """
    return fitting(examples, formatter.format_all(examples), max_length, name)


def fitting(
    examples: Sequence[Example], formatted: Sequence[FormattedExample], max_length: int, name: str
) -> EncodedSet:
    """Like `encode`, but for examples that are already formatted."""
    silent = [item for item in formatted if not item.completion_ids]
    if silent:
        raise FtlabError(
            f"{len(silent)} of {len(formatted)} {name} examples "
            f"{'has' if len(silent) == 1 else 'have'} an answer of no token for this model, "
            f"{silent[0].completion_text!r} for one; use another model, or leave them out."
        )
    kept = [i for i, item in enumerate(formatted) if item.length <= max_length]
    if not kept:
        shortest = min((item.length for item in formatted), default=0)
        raise TooLong(
            f"All {len(formatted)} {name} examples are longer than {max_length} tokens; the "
            f"shortest has {shortest}. Raise the maximum length."
        )
    return EncodedSet(
        tuple(examples[i] for i in kept),
        tuple(formatted[i] for i in kept),
        len(formatted) - len(kept),
    )


WINDOW_STEPS = 16
"""Number of steps whose examples are sorted by length together. Small, so that lengths stay mixed
in a long run; 64 would reduce the padding of the bundled tasks by less than another 1 %."""


def training_order(lengths: Sequence[int], steps: int, step_size: int, seed: int) -> list[int]:
    """The example indices of all steps, `steps * step_size` in total, one step after another.

    Examples are drawn in shuffled passes. The examples of `WINDOW_STEPS` steps are then assigned to
    these steps by length, so that batches need little padding, and the steps are shuffled. Examples
    of one pass are assigned before those of the next; otherwise a step could have one example
    several times. `lengths` are in tokens. The result depends only on the arguments, and a step's
    examples do not depend on how its `step_size` is split into batches.
    """
    generator = random.Random(seed)
    drawn: list[int] = []
    while len(drawn) < steps * step_size:
        one_pass = list(range(len(lengths)))
        generator.shuffle(one_pass)
        drawn.extend(one_pass)
    order: list[int] = []
    for first in range(0, steps, WINDOW_STEPS):
        last = min(first + WINDOW_STEPS, steps)
        window = sorted(
            range(first * step_size, last * step_size),
            key=lambda position: (position // len(lengths), lengths[drawn[position]]),
        )
        dealt = [window[i : i + step_size] for i in range(0, len(window), step_size)]
        generator.shuffle(dealt)
        order.extend(drawn[position] for step in dealt for position in step)
    return order


LENGTH_MULTIPLE = 8
"""Batches are padded to a multiple of this length. Tensor cores prefer it. On a CPU, oneDNN caches
packed buffers for every shape, so fewer shapes use less memory (LoRA, 30 steps of batch 4: 801 MB
instead of 1,065)."""


def padded_length(lengths: Iterable[int]) -> int:
    """The padded row length, in tokens, of a batch with examples of those lengths."""
    return math.ceil(max(lengths) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE


@dataclass(frozen=True)
class BatchSize:
    """`rows` of `length` tokens each, with padding; `completion_tokens` in total have loss."""

    rows: int
    length: int
    completion_tokens: int


@dataclass(frozen=True)
class Scoring:
    """Answers to `rows` test prompts at once; longest prompt, and most new tokens."""

    rows: int
    prompt: int
    new_tokens: int


def scoring_batch(formatted: Sequence[FormattedExample], new_tokens: int) -> Scoring:
    """The batch in which such examples are scored, with up to `new_tokens` in an answer."""
    longest = max(len(example.prompt_ids) for example in formatted)
    return Scoring(min(EVALUATION_BATCH, len(formatted)), longest, new_tokens)


def longest_batch(
    formatted: Sequence[FormattedExample], order: Sequence[int], batch_size: int
) -> tuple[BatchSize, Sequence[int]]:
    """The batch that takes the most memory, and the examples in it.

    It is the one with the longest padded rows, and among equals the most completion tokens.
    """
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    sized = [(_size([formatted[index] for index in batch]), batch) for batch in batches]
    return max(sized, key=lambda each: (each[0].length, each[0].completion_tokens))


def mean_tokens(
    formatted: Sequence[FormattedExample], order: Sequence[int], batch_size: int
) -> float:
    """The mean tokens of a batch, with padding."""
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    sizes = [_size([formatted[index] for index in batch]) for batch in batches]
    return sum(size.rows * size.length for size in sizes) / len(sizes)


def _size(batch: Sequence[FormattedExample]) -> BatchSize:
    return BatchSize(
        len(batch),
        padded_length(example.length for example in batch),
        sum(len(example.completion_ids) for example in batch),
    )
