"""Makes the examples of the Shakespeare task: plain sentences, and their Early Modern English.

A sentence and its rewriting are built together from clause patterns and a lexicon. Each split has
its own people, things, verbs and adjectives: most of these words in the held-out sentences never
appear in training. All splits share the grammar words, because these are what the model learns.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ftlab.tasks.spec import Example, Message, Split

Pair = tuple[str, str]
T = TypeVar("T")

_DOUBLED = frozenset({"forget", "stop", "admit"})
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Verb:
    """A verb with its forms in modern and Early Modern English."""

    base: str
    past: str
    participle: str

    @property
    def modern_third(self) -> str:
        """The form in "she carries"."""
        if self.base.endswith(("s", "sh", "ch", "x", "o")):
            return f"{self.base}es"
        return f"{_ies(self.base)}s"

    @property
    def eth(self) -> str:
        """The form in "she carrieth"."""
        return f"{_stem(self.base)}eth"

    @property
    def est(self) -> str:
        """The form in "thou carriest"."""
        return f"{_stem(self.base)}est"


def _ies(base: str) -> str:
    ends_in_consonant_y = base.endswith("y") and base[-2] not in _VOWELS
    return f"{base[:-1]}ie" if ends_in_consonant_y else base


def _stem(base: str) -> str:
    if base in _DOUBLED:
        return base + base[-1]
    if base.endswith("e") and not base.endswith("ee"):
        return base[:-1]
    if base.endswith("y") and base[-2] not in _VOWELS:
        return f"{base[:-1]}i"
    return base


def _verb(text: str) -> Verb:
    base, *rest = text.split(":")
    if rest:
        return Verb(base, rest[0], rest[1])
    past = f"{base}d" if base.endswith("e") else f"{_stem(base)}ed"
    return Verb(base, past, past)


@dataclass(frozen=True)
class Lexicon:
    """The content words of a split."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]


@cache
def lexicon(split: Split) -> Lexicon:
    """Returns the split's own words; an irregular verb is `base:past:participle`."""
    file = Path(__file__).with_name("shakespeare_words.json")
    words = {kind: text.split() for kind, text in json.loads(file.read_bytes())[split].items()}
    return Lexicon(
        tuple(words["people"]),
        tuple(words["things"]),
        tuple(_verb(text) for text in words["verbs"]),
        tuple(words["adjectives"]),
        tuple(words["places"]),
    )


def article(word: str) -> str:
    return "an" if word[0] in _VOWELS else "a"


def mine(word: str) -> str:
    """Returns "mine" before a vowel ("mine answer"), else "my" ("my heart")."""
    return "mine" if word[0] in _VOWELS else "my"


def thine(word: str) -> str:
    return "thine" if word[0] in _VOWELS else "thy"


OWN_WORD_SHARE = 0.75
"""Share of the content words in a held-out or tuning sentence from the split's own lexicon."""

_INSTRUCTIONS = ("Rewrite in Shakespeare's English:", "Say it as Shakespeare would:")


class Words:
    """Draws random words for one sentence, from the split's own lexicon or from training's."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.own = lexicon(split)
        self.common = lexicon("train")

    def _draw(self, part: Callable[[Lexicon], Sequence[T]]) -> T:
        own = self.rng.random() < OWN_WORD_SHARE
        return self.rng.choice(part(self.own if own else self.common))

    def person(self) -> str:
        return self._draw(lambda words: words.people)

    def thing(self) -> str:
        return self._draw(lambda words: words.things)

    def verb(self) -> Verb:
        return self._draw(lambda words: words.verbs)

    def adjective(self) -> str:
        return self._draw(lambda words: words.adjectives)

    def place(self) -> str:
        return self._draw(lambda words: words.places)

    def pick(self, *pairs: Pair) -> Pair:
        return self.rng.choice(pairs)

    def subject(self) -> Pair:
        """A subject in the third person: "the old king", "she", "my sister"."""
        person = self.person()
        choice = self.rng.random()
        if choice < 0.25:
            return self.pick(("he", "he"), ("she", "she"))
        if choice < 0.5:
            return f"my {person}", f"{mine(person)} {person}"
        if choice < 0.65:
            return f"your {person}", f"{thine(person)} {person}"
        described = f"the {self.adjective()} {person}" if choice < 0.85 else f"the {person}"
        return described, described

    def object(self) -> Pair:
        """An object of a verb: "you", "your sword", "the lantern"."""
        thing = self.thing() if self.rng.random() < 0.75 else self.person()
        choice = self.rng.random()
        if choice < 0.12:
            return "you", "thee"
        if choice < 0.42:
            return f"your {thing}", f"{thine(thing)} {thing}"
        if choice < 0.6:
            return f"my {thing}", f"{mine(thing)} {thing}"
        if choice < 0.75:
            adjective = self.adjective()
            both = f"{article(adjective)} {adjective} {thing}"
        else:
            both = f"the {thing}"
        return both, both

    def thing_of(self) -> Pair:
        """An object other than "you"."""
        while True:
            pair = self.object()
            if pair[0] != "you":
                return pair


def statement_third(w: Words) -> Pair:
    (s, es), verb, (o, eo) = w.subject(), w.verb(), w.object()
    return f"{s} {verb.modern_third} {o}.", f"{es} {verb.eth} {eo}."


def statement_you(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    return f"you {verb.base} {o}.", f"thou {verb.est} {eo}."


def denial_third(w: Words) -> Pair:
    (s, es), verb, (o, eo) = w.subject(), w.verb(), w.object()
    return f"{s} does not {verb.base} {o}.", f"{es} {verb.eth} not {eo}."


def denial_i(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.object()
    return f"I do not {verb.base} {o}.", f"I {verb.base} not {eo}."


def denial_you(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    return f"you do not {verb.base} {o}.", f"thou {verb.est} not {eo}."


def question_you(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    ask, early_ask = w.pick(("", ""), ("why ", "wherefore "), ("when ", "when "), ("how ", "how "))
    return f"{ask}do you {verb.base} {o}?", f"{early_ask}{verb.est} thou {eo}?"


def question_third(w: Words) -> Pair:
    (s, es), verb, (o, eo) = w.subject(), w.verb(), w.object()
    ask, early_ask = w.pick(("", ""), ("why ", "wherefore "), ("when ", "when "))
    return f"{ask}does {s} {verb.base} {o}?", f"{early_ask}{verb.eth} {es} {eo}?"


def question_past(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    return f"did you {verb.base} {o}?", f"didst thou {verb.base} {eo}?"


def modal_you(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    m, em = w.pick(
        ("can", "canst"), ("will", "wilt"), ("should", "shouldst"), ("may", "mayst"),
        ("would", "wouldst"), ("must", "must"),
    )  # fmt: skip
    if w.rng.random() < 0.4:
        return f"{m} you {verb.base} {o}?", f"{em} thou {verb.base} {eo}?"
    no = w.rng.choice(["", "not ", "never "])
    return f"you {m} {no}{verb.base} {o}.", f"thou {em} {no}{verb.base} {eo}."


def perfect(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    if w.rng.random() < 0.5:
        return f"you have {verb.participle} {o}.", f"thou hast {verb.participle} {eo}."
    s, es = w.subject()
    return f"{s} has {verb.participle} {o}.", f"{es} hath {verb.participle} {eo}."


def have_thing(w: Words) -> Pair:
    thing, adjective = w.thing(), w.adjective()
    what = f"{article(adjective)} {adjective} {thing}"
    if w.rng.random() < 0.5:
        return f"you have {what}.", f"thou hast {what}."
    s, es = w.subject()
    return f"{s} has {what}.", f"{es} hath {what}."


def you_are(w: Words) -> Pair:
    adjective, person = w.adjective(), w.person()
    noun = f"{article(adjective)} {adjective} {person}"
    what, early_what = w.pick(
        (noun, noun),
        (f"very {adjective}", f"most {adjective}"),
        (f"my {person}", f"{mine(person)} {person}"),
    )
    be, early_be = w.pick(("are", "art"), ("were", "wert"))
    if w.rng.random() < 0.35:
        return f"{be} you {what}?", f"{early_be} thou {early_what}?"
    return f"you {be} {what}.", f"thou {early_be} {early_what}."


def very(w: Words) -> Pair:
    (s, es), adjective = w.subject(), w.adjective()
    return f"{s} is very {adjective}.", f"{es} is most {adjective}."


def it_is(w: Words) -> Pair:
    thing, adjective = w.thing(), w.adjective()
    noun = f"{article(adjective)} {adjective} {thing}"
    b, eb = w.pick(("it is", "'tis"), ("it was", "'twas"), ("it is not", "'tis not"))
    what, early_what = w.pick(
        (noun, noun),
        (f"your {thing}", f"{thine(thing)} {thing}"),
        (f"my {thing}", f"{mine(thing)} {thing}"),
    )
    return f"{b} {what}.", f"{eb} {early_what}."


def command(w: Words) -> Pair:
    verb, (o, eo) = w.verb(), w.thing_of()
    if w.rng.random() < 0.5:
        return f"please {verb.base} {o}.", f"prithee, {verb.base} {eo}."
    return f"do not {verb.base} {o}.", f"{verb.base} not {eo}."


def going(w: Words) -> Pair:
    (s, es), place, (day, early_day) = w.subject(), w.place(), _time(w)
    go, early_go = w.pick(("goes", "goeth"), ("comes", "cometh"), ("returns", "returneth"))
    if w.rng.random() < 0.4:
        return f"where does {s} go {day}?", f"whither goeth {es} {early_day}?"
    return f"{s} {go} to {place} {day}.", f"{es} {early_go} to {place} {early_day}."


def _time(w: Words) -> Pair:
    return w.pick(
        ("today", "this day"), ("tonight", "this night"), ("soon", "anon"), ("often", "oft"),
        ("tomorrow", "on the morrow"), ("quickly", "with haste"), ("now", "now"),
    )  # fmt: skip


def i_will(w: Words) -> Pair:
    verb, (o, eo), (day, early_day) = w.verb(), w.object(), _time(w)
    return f"I will {verb.base} {o} {day}.", f"I shall {verb.base} {eo} {early_day}."


def past(w: Words) -> Pair:
    (s, es), verb, (o, eo) = w.subject(), w.verb(), w.object()
    if w.rng.random() < 0.4:
        return f"you {verb.past} {_reflexive(o)}.", f"thou didst {verb.base} {_reflexive(eo)}."
    before, early_before = w.pick(("before", "ere"), ("because", "for"))
    other, thing = w.verb(), w.thing()
    return (
        f"{s} {verb.past} {o} {before} you {other.past} the {thing}.",
        f"{es} {verb.past} {eo} {early_before} thou didst {other.base} the {thing}.",
    )


def _reflexive(text: str) -> str:
    """The reflexive form: "yourself" for "you", "thyself" for "thee"."""
    return {"you": "yourself", "thee": "thyself"}.get(text, text)


def condition(w: Words) -> Pair:
    verb, (o, eo), other, thing = w.verb(), w.thing_of(), w.verb(), w.thing()
    return (
        f"if you {verb.base} {o}, I will {other.base} the {thing}.",
        f"if thou {verb.est} {eo}, I shall {other.base} the {thing}.",
    )


def i_think(w: Words) -> Pair:
    (s, es), verb, (o, eo) = w.subject(), w.verb(), w.object()
    lead, early_lead = w.pick(
        ("I think", "methinks"), ("perhaps", "perchance"), ("truly,", "verily,"),
        ("look,", "behold,"), ("yes,", "aye,"), ("no,", "nay,"),
    )  # fmt: skip
    return f"{lead} {s} {verb.modern_third} {o}.", f"{early_lead} {es} {verb.eth} {eo}."


def relative(w: Words) -> Pair:
    person, verb, other, (o, eo), thing = w.person(), w.verb(), w.verb(), w.object(), w.thing()
    return (
        f"the {person} who {verb.modern_third} {o} {other.modern_third} the {thing}.",
        f"the {person} that {verb.eth} {eo} {other.eth} the {thing}.",
    )


def nothing(w: Words) -> Pair:
    (s, es), verb = w.subject(), w.verb()
    place, early_place = w.pick(
        ("here", "here"), ("over there", "yonder"), ("in your house", "in thy house")
    )
    return f"{s} {verb.modern_third} nothing {place}.", f"{es} {verb.eth} naught {early_place}."


PATTERNS: tuple[Callable[[Words], Pair], ...] = (
    statement_third, statement_you, denial_third, denial_i, denial_you, question_you,
    question_third, question_past, modal_you, perfect, have_thing, you_are, very, it_is, command,
    going, i_will, past, condition, i_think, relative, nothing,
)  # fmt: skip


def _sentence(text: str) -> str:
    """Capitalises the first letter, also after a leading apostrophe."""
    at = 1 if text.startswith("'") else 0
    return text[:at] + text[at].upper() + text[at + 1 :]


def make(rng: random.Random, split: Split) -> Example:
    words = Words(rng, split)
    plain, early = rng.choice(PATTERNS)(words)
    if rng.random() < 0.2:
        person = words.person()
        call, early_call = words.pick(("my dear", "sweet"), ("my good", "good"))
        plain, early = f"{call} {person}, {plain}", f"{early_call} {person}, {early}"
    prompt = f"{rng.choice(_INSTRUCTIONS)} {_sentence(plain)}"
    return Example((Message("user", prompt),), _sentence(early))
