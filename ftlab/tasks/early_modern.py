"""Words of the Shakespeare task and how their forms are spelt, in both Englishes.

Each split has its own people, things, verbs and adjectives; the grammar words are common to all,
for they are what is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ftlab.tasks.splits import Split

_PEOPLE: dict[Split, str] = {
    "train": "king queen servant soldier merchant priest brother sister widow knight prince "
    "captain butcher nurse lawyer beggar sailor farmer teacher cousin gentleman "
    "prisoner doctor poet neighbour friend father mother uncle daughter guard "
    "stranger singer painter judge",
    "tuning": "duke shepherd tailor miller hermit guest pilgrim clerk bishop herald",
    "held_out": "countess messenger gardener jester orphan blacksmith traveller scholar carpenter "
    "princess sheriff cook fisherman",
}
_THINGS: dict[Split, str] = {
    "train": "sword letter crown garden castle horse ring river candle door book coat bridge "
    "field window flower storm feast purse mirror kingdom tower bell ship secret "
    "table dagger road forest apple bread wine house church mountain village market "
    "promise song gift name voice hand heart army battle message picture answer",
    "tuning": "goblet harp cottage anchor lamp meadow saddle ribbon tomb quill veil orchard oak",
    "held_out": "shield lantern chapel valley chain necklace fountain drum banner island wagon "
    "key cloak pearl harbour portrait stable",
}
# base past participle; a regular verb stands alone.
_VERBS: dict[Split, str] = {
    "train": "love hate fear serve praise follow watch guard find:found:found see:saw:seen "
    "hear:heard:heard know:knew:known carry hide:hid:hidden break:broke:broken "
    "sell:sold:sold keep:kept:kept bring:brought:brought paint open close want "
    "remember forget:forgot:forgotten trust touch lose:lost:lost steal:stole:stolen "
    "take:took:taken visit admire leave:left:left miss save kiss call "
    "choose:chose:chosen burn answer pay:paid:paid hold:held:held protect",
    "tuning": "seek:sought:sought mend blame doubt forsake:forsook:forsaken polish curse honour",
    "held_out": "buy:bought:bought despise teach:taught:taught welcome betray catch:caught:caught "
    "envy draw:drew:drawn forgive:forgave:forgiven reward pity repair feed:fed:fed",
}
_ADJECTIVES: dict[Split, str] = {
    "train": "brave old honest sad happy cruel proud gentle poor rich wise foolish strong weak "
    "young kind angry tired noble quiet false true sick lonely clever pale merry "
    "strange",
    "tuning": "jealous humble weary stubborn cheerful pious",
    "held_out": "fearful loyal bitter greedy fierce patient wicked modest graceful",
}
_PLACES: dict[Split, str] = {
    "train": "Rome Venice London Verona Athens Paris Padua Denmark Scotland Egypt",
    "tuning": "Messina Vienna Troy",
    "held_out": "Cyprus Milan Naples Windsor",
}
_DOUBLED = frozenset({"forget", "stop", "admit"})
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Verb:
    """A verb with its forms in both Englishes."""

    base: str
    past: str
    participle: str

    @property
    def modern_third(self) -> str:
        """ "she carries" """
        if self.base.endswith(("s", "sh", "ch", "x", "o")):
            return f"{self.base}es"
        return f"{_ies(self.base)}s"

    @property
    def eth(self) -> str:
        """ "she carrieth" """
        return f"{_stem(self.base)}eth"

    @property
    def est(self) -> str:
        """ "thou carriest" """
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
    """The split's own words: no word is in two splits."""
    return Lexicon(
        tuple(_PEOPLE[split].split()),
        tuple(_THINGS[split].split()),
        tuple(_verb(text) for text in _VERBS[split].split()),
        tuple(_ADJECTIVES[split].split()),
        tuple(_PLACES[split].split()),
    )


def article(word: str) -> str:
    return "an" if word[0] in _VOWELS else "a"


def mine(word: str) -> str:
    """ "mine answer", "my heart": mine and thine stand before a vowel."""
    return "mine" if word[0] in _VOWELS else "my"


def thine(word: str) -> str:
    return "thine" if word[0] in _VOWELS else "thy"
