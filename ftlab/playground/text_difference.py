"""Finds the words that differ between two texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, groupby, takewhile
from typing import Literal

Kind = Literal["same", "added", "removed"]
Pair = tuple[int, int]
"""Indices of a word that both texts contain: in the first text, in the second text."""

MAX_FOR_BLOCKS = 200 * 200
"""Maximum product of both word counts for difflib's matching blocks: 20 ms at worst. Two lists of
500 values in which only the commas are equal take difflib 2 s."""

MAX_FOR_COMMON = 20_000 * 20_000
"""The same for a longest common subsequence: it needs that many bits of memory, 50 MB."""

# A word with its apostrophes, a run of one mark, or white space; every character is in a token.
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|([^\w\s])\1*|\s+")


@dataclass(frozen=True)
class Piece:
    """A run of words: "same" in both texts, "added" in the new or "removed" from the old text."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class _Word:
    """A word or mark with the white space before it. The last word of a text is empty."""

    space: str
    word: str

    def __str__(self) -> str:
        return self.space + self.word


def word_differences(text: str, against: str) -> list[Piece]:
    """Returns the removed, added and equal pieces that turn `against` into `text`.

    The joined pieces without "removed" are `text`; those without "added" are `against`. A
    punctuation mark counts as a word. White space before a word is ignored in the comparison.
    """
    return list(_merged(_pieces(_words(text), _words(against))))


def changed_share(pieces: Sequence[Piece]) -> float:
    """Share in [0, 1] of all words and marks of both texts that are in only one of them."""
    counts: dict[Kind, int] = {"same": 0, "added": 0, "removed": 0}
    for piece in pieces:
        counts[piece.kind] += len(_words(piece.text)) - 1
    changed = counts["added"] + counts["removed"]
    return changed / (changed + 2 * counts["same"]) if changed else 0.0


def _words(text: str) -> list[_Word]:
    words, space = [], ""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.isspace():
            space = token
        else:
            words.append(_Word(space, token))
            space = ""
    return [*words, _Word(space, "")]


def _pieces(new: Sequence[_Word], old: Sequence[_Word]) -> Iterator[Piece]:
    ends = len(new) - 1, len(old) - 1
    pairs = _common([word.word for word in new[:-1]], [word.word for word in old[:-1]])
    i = j = 0
    for here, there in chain(pairs, [ends]):
        removed, added = "".join(map(str, old[j:there])), "".join(map(str, new[i:here]))
        same = str(new[here])
        if new[here].space != old[there].space:
            removed, added = removed + old[there].space, added + new[here].space
            same = new[here].word
        yield Piece("removed", removed)
        yield Piece("added", added)
        yield Piece("same", same)
        i, j = here + 1, there + 1


def _merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Drops empty pieces and joins neighbours of the same kind."""
    for kind, run in groupby(filter(lambda piece: piece.text, pieces), lambda piece: piece.kind):
        yield Piece(kind, "".join(piece.text for piece in run))


def _common(new: Sequence[str], old: Sequence[str]) -> list[Pair]:
    """Pairs of equal words, in increasing order in both texts.

    difflib's longest blocks first read best, but its time grows with the cube of the length if
    words repeat. Longer texts use a longest common subsequence, with a fixed number of steps. Texts
    that are too long for it are compared only up to their first difference.
    """
    size = len(new) * len(old)
    if size > MAX_FOR_COMMON:
        first = takewhile(lambda words: words[0] == words[1], zip(new, old, strict=False))
        return [(k, k) for k, _ in enumerate(first)]
    if size > MAX_FOR_BLOCKS:
        return _common_subsequence(new, old)
    blocks = SequenceMatcher(None, new, old, autojunk=False).get_matching_blocks()
    return [(block.a + k, block.b + k) for block in blocks for k in range(block.size)]


def _common_subsequence(new: Sequence[str], old: Sequence[str]) -> list[Pair]:
    """A longest common subsequence; computes each row of its table in a few bit operations.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited": in the row of `new[:i + 1]` bit j
    is 0 if `old[j]` makes the subsequence longer by one.
    """
    places: dict[str, int] = {}
    for j, word in enumerate(old):
        places[word] = places.get(word, 0) | 1 << j
    every = (1 << len(old)) - 1
    row, rows = every, []
    for word in new:
        found = row & places.get(word, 0)
        row = ((row + found) | (row - found)) & every
        rows.append(row)
    pairs = []
    i, j = len(new), len(old)
    while i and j:
        bit = 1 << (j - 1)
        if rows[i - 1] & bit:
            j -= 1  # the same length without this word of `old`
        elif i > 1 and not rows[i - 2] & bit:
            i -= 1  # the same length without this word of `new`
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
