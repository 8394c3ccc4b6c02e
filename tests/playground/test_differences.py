"""Word-level differences between two texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NoReturn

import pytest

from ftlab.playground import text_difference
from ftlab.playground.text_difference import Piece, changed_share, word_differences


def same(text: str) -> Piece:
    return Piece("same", text)


def added(text: str) -> Piece:
    return Piece("added", text)


def removed(text: str) -> Piece:
    return Piece("removed", text)


def of(pieces: Sequence[Piece], *kinds: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind in kinds)


@pytest.mark.parametrize(
    ("text", "against", "pieces"),
    [
        ("age > 30;", "age > 30", [same("age > 30"), added(";")]),
        ("age > 30", "age > 30;", [same("age > 30"), removed(";")]),
        ("count(name)", "count(*)", [same("count("), removed("*"), added("name"), same(")")]),
        (
            "SELECT name FROM singers WHERE age > 3",
            "SELECT name FROM singers",
            [same("SELECT name FROM singers"), added(" WHERE age > 3")],
        ),
        ("the old king", "old king", [added("the "), same("old king")]),
        ("I lov'd it", "I loved it", [same("I"), removed(" loved"), added(" lov'd"), same(" it")]),
        ("a\nb", "a b", [same("a"), removed(" "), added("\n"), same("b")]),
        ("a b\n", "a b", [same("a b"), added("\n")]),
        ("one two", "three", [removed("three"), added("one two")]),
        ("a", "", [added("a")]),
        ("", "a", [removed("a")]),
        ("", "", []),
    ],
)  # fmt: skip
def test_the_difference_is_in_whole_words_with_punctuation_apart(
    text: str, against: str, pieces: list[Piece]
) -> None:
    assert word_differences(text, against) == pieces


def random_text(rng: random.Random, words: Sequence[str], most: int) -> str:
    spaces = [" ", " ", " ", "", "\n", "  ", "\t\n", "\u2028"]
    count = rng.randint(0, most)
    return "".join(rng.choice(spaces) + rng.choice(words) for _ in range(count)) + rng.choice(
        spaces
    )


WORDS = [
    *("a", "b", "be", "don't", "’tis", "'", ";", ";;", "-", "("),
    *("é", "日本", "👍🏽", "हिन्दी", "_", "3.5"),
]


@pytest.mark.parametrize("size", [text_difference.MAX_FOR_BLOCKS, 0], ids=["blocks", "subsequence"])
@pytest.mark.parametrize("share", [3, len(WORDS)])
def test_the_pieces_make_up_both_texts_exactly(
    size: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_difference, "MAX_FOR_BLOCKS", size)
    rng = random.Random(f"{size} {share}")
    for _ in range(1_000):
        text, against = (random_text(rng, WORDS[:share], 14) for _ in range(2))
        pieces = word_differences(text, against)
        assert of(pieces, "same", "added") == text
        assert of(pieces, "same", "removed") == against
        assert all(piece.text for piece in pieces)
        kinds = [piece.kind for piece in pieces]
        assert all(kind != following for kind, following in pairwise(kinds))
        assert 0 <= changed_share(pieces) <= 1


def test_a_text_has_no_difference_from_itself_whichever_way_it_is_sought() -> None:
    for count in (0, 10, 250, 3_000):
        text = "the cat, the dog; " * count
        assert word_differences(text, text) == ([same(text)] if text else [])


def test_long_texts_share_as_many_words_as_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_difference, "MAX_FOR_BLOCKS", 0)
    rng = random.Random(5)
    for _ in range(300):
        one, other = (rng.choices("abcd", k=rng.randint(0, 12)) for _ in range(2))
        shared = of(word_differences(" ".join(one), " ".join(other)), "same").split()
        assert len(shared) == longest_common(one, other)


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The textbook's table, row by row."""
    row = [0] * (len(other) + 1)
    for word in one:
        above, row = row, [0]
        for j, against in enumerate(other):
            row.append(above[j] + 1 if word == against else max(above[j + 1], row[j]))
    return row[-1]


def two_words_in_a_loop(count: int) -> tuple[str, str]:
    return "yes no " * (count // 2), "no yes " * (count // 2)


def lists_alike_in_commas_alone(count: int) -> tuple[str, str]:
    one, other = (", ".join(f"{c}{i}" for i in range(count // 2)) for c in "ab")
    return one, other


def two_words_at_random(count: int) -> tuple[str, str]:
    rng = random.Random(2)
    one, other = (" ".join(rng.choices(["yes", "no"], k=count)) for _ in range(2))
    return one, other


@pytest.mark.parametrize("count", [200, 1_000])
@pytest.mark.parametrize(
    "make", [two_words_in_a_loop, lists_alike_in_commas_alone, two_words_at_random]
)
def test_what_repeating_texts_share_is_found(
    make: Callable[[int], tuple[str, str]], count: int
) -> None:
    text, against = make(count)
    assert of(word_differences(text, against), "same")


def test_texts_too_long_to_align_are_compared_up_to_their_first_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_difference, "_common_subsequence", no_alignment)
    most = "a " * 25_000
    assert word_differences(most, most) == [same(most)]
    assert word_differences(most + "b, c", most + "d, c") == [
        same(most[:-1]),
        removed(" d, c"),
        added(" b, c"),
    ]


def no_alignment(new: Sequence[str], old: Sequence[str]) -> NoReturn:
    raise AssertionError(f"aligned {len(new):,} words with {len(old):,}")


def test_the_share_counts_the_words_of_both_texts() -> None:
    assert changed_share(word_differences("a b c d", "a b c")) == pytest.approx(1 / 7)
    assert changed_share(word_differences("30;", "30")) == pytest.approx(1 / 3)
    assert changed_share(word_differences("a b", "c d")) == 1
    assert changed_share(word_differences("a  b", "a b")) == 0
    assert changed_share([]) == 0
