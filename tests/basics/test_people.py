"""Who asks, and what that person may see and change."""

from __future__ import annotations

import contextvars
import threading

import pytest

from ftlab.basics.bearer import read_tokens
from ftlab.basics.errors import FtlabError
from ftlab.basics.people import NOBODY, OPERATOR, People, Person, asked_by, asking, is_name

SHARED = People(logs_in=True, admins=frozenset({"root"}), most_queued=3)
PRIVATE = People(logs_in=True, is_private=True, admins=frozenset({"root"}), most_queued=3)


def test_without_logins_everybody_is_the_operator_who_may_do_everything() -> None:
    people = People()
    for name in (None, "", "ada"):
        assert people.person(name) is OPERATOR
    assert OPERATOR.sees("ada")
    assert OPERATOR.may_change("ada")


@pytest.mark.parametrize("people", [SHARED, PRIVATE])
def test_a_person_changes_only_what_is_their_own_and_an_admin_everything(people: People) -> None:
    ada, root = people.person("ada"), people.person("root")
    assert ada.may_change("ada")
    assert not ada.may_change("bob")
    assert not ada.may_change("")
    assert all(map(root.may_change, ("ada", "bob", "")))
    with pytest.raises(FtlabError, match="The run 7 belongs to bob; only its owner or an admin"):
        ada.check_change("bob", "The run 7")
    with pytest.raises(FtlabError, match="was made without a login"):
        ada.check_change("", "The run 7")


def test_all_see_all_unless_the_app_is_private() -> None:
    assert SHARED.person("ada").sees("bob")
    assert not PRIVATE.person("ada").sees("bob")
    assert not PRIVATE.person("ada").sees("")
    assert PRIVATE.person("ada").sees("ada")
    assert PRIVATE.person("root").sees("ada")


def test_where_people_log_in_a_request_without_a_login_sees_and_changes_nothing() -> None:
    for people in (SHARED, PRIVATE):
        for name in (None, ""):
            assert people.person(name) is NOBODY
    assert not NOBODY.sees("")  # what the operator made is no stranger's
    assert not NOBODY.may_change("")


def test_a_token_without_a_name_is_the_operators_and_one_with_a_name_that_persons() -> None:
    assert PRIVATE.agent("") is OPERATOR
    assert PRIVATE.agent("ada") == PRIVATE.person("ada")


def test_who_asks_is_known_within_and_in_a_copy_of_the_context_alone() -> None:
    ada = Person("ada")
    heard: list[Person] = []
    with asked_by(ada):
        assert asking() is ada
        context = contextvars.copy_context()
        for call in (lambda: context.run(lambda: heard.append(asking())),
                     lambda: heard.append(asking())):  # fmt: skip
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
    assert heard == [ada, OPERATOR]
    assert asking() is OPERATOR


def test_a_full_queue_says_how_many_there_are_and_what_to_do() -> None:
    ada = SHARED.person("ada")
    ada.check_room(1, 2)
    with pytest.raises(FtlabError, match=r"2 runs of yours .* more than 3, .* Wait until"):
        ada.check_room(2, 2)
    with pytest.raises(FtlabError, match="That would be 4 runs, and 3 is the most of one person"):
        ada.check_room(0, 4)
    OPERATOR.check_room(10_000, 1)


@pytest.mark.parametrize("name", ["", " ada", "ada\n", "a\x1b[31m", "x" * 65])
def test_a_name_that_cannot_be_shown_or_stored_is_none(name: str) -> None:
    assert not is_name(name)
    assert is_name("Zoë O'Neil")


def test_each_person_has_a_token_for_agents() -> None:
    first, second, third = (letter * 16 for letter in "abc")
    tokens = read_tokens("TOKENS", {"TOKENS": f"{first}, ada:{second} ,bob:{third}"})
    assert tokens.name(f"Bearer {second}") == "ada"
    assert tokens.name(f"Bearer {first}") == ""
    assert not tokens.refusal(f"bearer {third}")
    assert tokens.refusal("Bearer nonsense")
    assert tokens.refusal("")
    assert not read_tokens("TOKENS", {}).refusal("")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (f"{'a' * 16},{'b' * 16}", "two tokens of nobody by name"),
        (f"ada:{'a' * 16},ada:{'b' * 16}", "two tokens of 'ada'"),
        (f"ada:{'a' * 16},bob:{'a' * 16}", "the same token"),
        ("ada:short", "5 characters"),
        ("ada:", "without a token"),  # as NAME:${UNSET} gives
        (f"root:{'a' * 16},ada:", "'ada:' without a token"),
        (":", "without a token"),
        (f":{'a' * 16}", "without its name"),
    ],
)
def test_tokens_that_would_mix_people_up_are_refused(value: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        read_tokens("TOKENS", {"TOKENS": value})
