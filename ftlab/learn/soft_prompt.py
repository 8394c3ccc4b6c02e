"""Finds the real tokens that are nearest to the vectors of a learnt soft prompt.

Lester et al. 2021 (arXiv 2104.08691) examine the nearest tokens by cosine in section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import Tensors, open_tensors
from ftlab.playground.panes import WEIGHTS_FILE

PROMPT_TENSOR = "prompt_embeddings"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_ROWS_AT_ONCE = 4096
_SAMPLE = 256


@dataclass(frozen=True)
class Nearest:
    """The k nearest tokens of each of v vectors, nearest first; arrays of (v, k).

    `distances` are Euclidean distances to the tokens that are nearest by cosine.
    """

    tokens: NDArray[np.int64]
    cosines: NDArray[np.float32]
    distances: NDArray[np.float32]


@dataclass(frozen=True)
class Typical:
    """Cosines between real tokens, measured on a sample.

    `pair`: of two random tokens; `nearest`: of a token and its nearest other token.
    """

    pair: NDArray[np.float32]
    nearest: NDArray[np.float32]


def read_prompt(folder: Path) -> NDArray[np.float32]:
    """Reads the learnt vectors, (tokens, width). Raises `FtlabError` if missing or not finite."""
    vectors = open_tensors(folder / WEIGHTS_FILE).read(PROMPT_TENSOR)
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise FtlabError(
            f"'{PROMPT_TENSOR}' of the run has the shape {vectors.shape} or holds numbers that are "
            "not finite; train it again."
        )
    return vectors


def embedding_name(model: Tensors, width: int) -> str:
    """The name of the (tokens, `width`) embedding tensor; raises `FtlabError` if there is none."""
    for name in model.names:
        if name.endswith(_EMBEDDINGS) and model.shape(name)[1:] == (width,):
            return name
    raise FtlabError(
        f"The base model '{model.place.name}' has no token embeddings of width {width}; the prompt "
        "was learnt on another model."
    )


def nearest_tokens(
    vectors: NDArray[np.float32], model: Tensors, embeddings: str, top: int = 3
) -> Nearest:
    """Finds the nearest rows of the embedding matrix by cosine; reads a few MB at a time.

    The cosine of a zero row or a zero vector is 0.
    """
    return _nearest(vectors, model, embeddings, top, None)


def typical_cosines(model: Tensors, embeddings: str, seed: int = 0) -> Typical:
    """Measures cosines on random tokens; the same seed gives the same tokens."""
    count = model.shape(embeddings)[0]
    drawn = np.random.default_rng(seed).choice(count, min(_SAMPLE, count), replace=False)
    rows = np.concatenate([model.rows(embeddings, int(i), int(i) + 1) for i in drawn])
    unit = _unit(rows)
    pairs = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    found = _nearest(rows, model, embeddings, 1, drawn)
    return Typical(pairs, found.cosines[:, 0])


def token_texts(tokenizer_file: Path) -> Callable[[int], str]:
    """Returns a function from a token id to its text, including a leading space.

    Raises `FtlabError` if the tokenizer cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises a bare Exception
        raise FtlabError(f"'{tokenizer_file.name}' cannot be read ({error}).") from None

    def text(token: int) -> str:
        decoded = tokenizer.decode([token], skip_special_tokens=False)
        # A token may be only a part of a character; then show its form in the vocabulary.
        return tokenizer.id_to_token(token) or "" if "\ufffd" in decoded else decoded

    return text


def visible(text: str, limit: int = 20) -> str:
    """A token's text with visible white space, cut to `limit` characters."""
    shown = "".join(_MARKS.get(char, char if char.isprintable() else "�") for char in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


_MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def _nearest(
    vectors: NDArray[np.float32],
    model: Tensors,
    embeddings: str,
    top: int,
    own: NDArray[np.int64] | None,
) -> Nearest:
    """`own` are the token ids of the vectors themselves; they are excluded."""
    count = model.shape(embeddings)[0]
    unit, lengths = _unit(vectors), np.linalg.norm(vectors, axis=1)
    best: NDArray[np.float32] = np.empty((len(vectors), 0), np.float32)
    tokens: NDArray[np.int64] = np.empty((len(vectors), 0), np.int64)
    norms: NDArray[np.float32] = np.empty((len(vectors), 0), np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = model.rows(embeddings, start, start + _ROWS_AT_ONCE)
        cosines = unit @ _unit(rows).T
        if own is not None:
            inside = np.flatnonzero((own >= start) & (own < start + len(rows)))
            cosines[inside, own[inside] - start] = -np.inf
        here = np.argpartition(-cosines, min(top, len(rows)) - 1, axis=1)[:, :top]
        best = np.hstack([best, np.take_along_axis(cosines, here, 1)])
        tokens = np.hstack([tokens, here + start])
        norms = np.hstack([norms, np.linalg.norm(rows, axis=1)[here]])
        kept = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best = np.take_along_axis(best, kept, 1)
        tokens = np.take_along_axis(tokens, kept, 1)
        norms = np.take_along_axis(norms, kept, 1)
    squared = lengths[:, None] ** 2 + norms**2 - 2 * best * lengths[:, None] * norms
    return Nearest(tokens, best, np.sqrt(np.maximum(squared, 0)))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
