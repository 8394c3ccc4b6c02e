"""Settings of a form: how they are read, what is refused at which bound, and how they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.settings.request import parse_memory_limit, parse_seeds, problems_of_seeds
from ftlab.settings.schema import Setting, errors_in, fields_of, read_settings


@dataclass(frozen=True)
class Some:
    steps: Annotated[int, Setting("Steps", low=1, high=5000, unit="step")] = 2
    rate: Annotated[float | None, Setting("Rate", above=True, high=10, empty="its own")] = None
    name: Annotated[str, Setting("Name", high=3)] = ""
    quick: Annotated[bool, Setting("Quick")] = False
    kind: Annotated[Literal["a", "b"], Setting("Kind", choices={"a": "Alpha", "b": "Beta"})] = "a"
    hidden: Annotated[int, Setting("Hidden", high=9, place="command line")] = 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "Steps is 0; it must lie between 1 and 5,000."),
        ({"steps": 5001}, "Steps is 5,001; it must lie between 1 and 5,000."),
        (
            {"rate": 0.0},
            "Rate is 0; it must be above 0 and at most 10, or be left empty (its own).",
        ),
        ({"rate": 10.5}, "Rate is 10.5; it must be above 0"),
        ({"rate": math.nan}, "Rate is nan; it must be above 0"),
        ({"name": "four"}, "Name has 4 characters; at most 3 are read."),
        ({"kind": "c"}, "Kind: 'c' is none of: a, b."),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_the_rule(
    changes: dict[str, Any], sentence: str
) -> None:
    (error,) = errors_in(Some(**changes), "settings.")
    assert error.field == f"settings.{next(iter(changes))}"
    assert error.message.startswith(sentence)


@pytest.mark.parametrize(
    "changes",
    [{}, {"steps": 1}, {"steps": 5000}, {"rate": 1e-9}, {"rate": 10.0}, {"name": "abc"},
     {"kind": "b"}],
)  # fmt: skip
def test_values_at_their_bounds_are_taken(changes: dict[str, Any]) -> None:
    assert errors_in(Some(**changes)) == []


def test_what_a_form_holds_is_read_and_each_wrong_value_named_with_its_field() -> None:
    errors: list[FieldError] = []
    values = {"p.steps": "3", "p.rate": " ", "p.name": None, "p.quick": True, "p.hidden": 7}
    assert read_settings(Some, values, errors, "p.") == {
        "steps": 3, "rate": None, "name": "", "quick": True,
    }  # fmt: skip
    assert errors == []
    wrong = {"steps": "2.5", "rate": "much", "name": 7, "quick": "yes", "kind": ""}
    assert read_settings(Some, wrong, errors) == {"kind": "a"}
    assert [(error.field, error.message) for error in errors] == [
        ("steps", "Steps is '2.5'; it must be a whole number."),
        ("rate", "Rate is 'much'; it must be a number."),
        ("name", "Name: 7 is no text; put it in quotes."),
        ("quick", "Quick is 'yes'; it must be true or false."),
    ]
    with pytest.raises(FtlabError, match="Steps is empty; it must be a whole number"):
        fields_of(Some)["steps"].read("")
    with pytest.raises(FtlabError, match="Steps is 'True'"):
        fields_of(Some)["steps"].read(True)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("steps", 1, "1 step"),
        ("steps", 1200, "1,200 steps"),
        ("rate", 0.0005, "0.0005"),
        ("rate", None, "its own"),
        ("quick", True, "on"),
        ("quick", False, "off"),
        ("kind", "b", "Beta"),
    ],
)
def test_a_value_is_shown_with_its_unit_or_label(name: str, value: Any, shown: str) -> None:
    assert fields_of(Some)[name].shown(value) == shown


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0,1,2", (0, 1, 2)), (" 3  5 ", (3, 5)), (7, (7,)), ("", ()), (None, ())],
)
def test_seeds_are_read_from_a_text_or_a_number(given: object, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize("given", ["a", "1.5", "1;2", "nan"])
def test_seeds_that_are_no_whole_numbers_are_refused(given: str) -> None:
    with pytest.raises(FtlabError, match=r"must be whole numbers, as in 0 or 0,1,2"):
        parse_seeds(given)


@pytest.mark.parametrize(
    ("seeds", "sentences"),
    [
        ((0, 2**32 - 1), []),
        ((), ["No seed is given; give at least one"]),
        ((1, 2, 1), ["Seed 1 is given twice"]),
        ((4, 4, 4), ["Seed 4 is given 3 times"]),
        ((1, 1, 2, 2), ["Seeds 1 and 2 are given more than once"]),
        ((-1, 2**32), ["Seed -1 must lie between 0", "Seed 4294967296 must lie between 0"]),
    ],
)
def test_missing_repeated_and_impossible_seeds_are_named(
    seeds: tuple[int, ...], sentences: list[str]
) -> None:
    found = list(problems_of_seeds(seeds))
    assert len(found) == len(sentences)
    assert all(map(str.startswith, found, sentences))


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), (" 2 gb ", 2 * 10**9), ("2G", 2 * 10**9), ("1.5GiB", 3 * 2**29),
     ("1Ki", None), ("63.9MB", None), ("2XB", None), ("", None), ("100000000", 10**8)],
)  # fmt: skip
def test_a_memory_limit_is_a_size_of_64_mb_or_more(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(FtlabError, match="The memory limit"):
            parse_memory_limit(text)
    else:
        assert parse_memory_limit(text) == size
