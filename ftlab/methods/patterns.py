"""Regular expressions over the names of layers, matched by RE2: no pattern backtracks.

PEFT hands several fields of a configuration to `re`, where a short pattern can take years over one
name. RE2 takes time in proportion to the name and to the compiled pattern. What it cannot take
(backreferences, most look-arounds, large counted repeats) is refused where a configuration arrives.
Every module of PEFT that uses `re` gets `MATCHING` in its place as it is imported, so that no
pattern of a stranger's configuration is ever run by a matcher that backtracks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any

import re2

from ftlab.methods.peft_rules import leaves, shown

MAX_CHARACTERS = 20_000
"""Of one pattern. The names of all attention layers of a large model have 10,000."""

MAX_PROGRAM = 5_000
"""Instructions of all patterns of a configuration together; one that people write has some 300,
and one that writes out every layer of a large model 4,000. The worst so large took 5 ms a name."""

MAX_STRINGS = 5_000
"""Of one field, since PEFT matches each with every layer. `target_modules` may be a list of all
experts, which are names that PEFT only compares."""

WAY_OUT = "name the layers in a list"

_MEMORY_BYTES = 2 << 20  # RE2 keeps its states there; with less it is 300 times as slow
_LOOK_FACTOR = 30  # a pattern with a look-around is run from every place of a name
_FREE_TEXT = frozenset({
    "base_model_name_or_path", "revision", "tokenizer_name_or_path", "peft_version",
    "prompt_tuning_init_text",
})  # fmt: skip
"""Fields that name models or hold people's text. A pattern in any other is judged."""

_PLAIN = re.compile(r"[\w.-]*", re.ASCII)
_NAMED = re.compile(r"\(\.\*\\\.\)\?\([\w.-]*\)\$", re.ASCII)
"""A name as PEFT looks it up in rank_pattern. `re` has one place there to go back to, and is ten
times as fast as RE2 from Python; a config that gives every layer a rank asks thousands of times."""

_LOOKS = {"(?=": False, "(?!": True}
_OF_THE_PLACE = re.compile(r"\\[bBA]|(?<!\[)\^")
_FLAGS = re.compile(r"\(\?[A-Za-z-]+\)")


class BadPattern(ValueError):
    """A pattern that is not taken; the text says why, as the rest of a sentence."""


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern.

    With a look-around it is three: `regex` before it, `after` behind it, and `looks` between, each
    with whether it forbids what it matches. Such a pattern is matched with whole names alone.
    """

    text: str
    regex: Any
    looks: tuple[tuple[Any, bool], ...] = ()
    after: Any = None

    @property
    def program(self) -> int:
        """Instructions, a look-around's as often as they are run."""
        if self.after is None:
            return int(getattr(self.regex, "programsize", len(self.text)))
        parts = (self.regex, self.after, *(look for look, _ in self.looks))
        return _LOOK_FACTOR * sum(part.programsize for part in parts)

    def fullmatch(self, name: str) -> Any:
        """The match with the whole name, or `True` after a look-around; false where it is none."""
        if self.after is None:
            return self.regex.fullmatch(name)
        return any(
            self.regex.fullmatch(name[:place])
            and all(bool(look.match(name[place:])) != forbids for look, forbids in self.looks)
            and self.after.fullmatch(name[place:])
            for place in range(len(name) + 1)
        )

    def match(self, name: str) -> Any:
        """The match with the beginning of the name, or `None`."""
        return self._without_looks().match(name)

    def search(self, name: str) -> Any:
        """The first match within the name, or `None`."""
        return self._without_looks().search(name)

    def sub(self, replacement: Any, name: str) -> str:
        """The name with every match replaced, as `re.sub` does."""
        return str(self._without_looks().sub(replacement, name))

    def _without_looks(self) -> Any:
        if self.after is not None:
            raise BadPattern(_LOOK_AROUND)
        return self.regex


_LOOK_AROUND = (
    "a look-around may only stand in a pattern of whole names, once, and outside of all groups"
)


@lru_cache(maxsize=8192)
def compiled(text: str) -> Pattern:
    """The pattern for RE2. Raises `BadPattern` for one that is not taken.

    One look-ahead, or several in one place, may stand outside of all groups and alternatives, as in
    "^(?!.*vision).*q_proj".
    """
    if len(text) > MAX_CHARACTERS:
        raise BadPattern(f"it has {len(text):,} characters, and {MAX_CHARACTERS:,} are taken")
    if _NAMED.fullmatch(text):
        return Pattern(text, re.compile(text))
    if not any(look in text for look in _LOOKS):
        return Pattern(text, _regex(text))
    before, looks, after = _split(text)
    parts = [look[3:-1] for look in looks]
    if before not in ("", "^") and any(map(_OF_THE_PLACE.search, (*parts, after))):
        raise BadPattern(f"{_LOOK_AROUND}, with neither ^ nor \\b behind it")
    return Pattern(
        text,
        _regex(before),
        tuple(
            (_regex(part), _LOOKS[look[:3]]) for part, look in zip(parts, looks, strict=True)
        ),
        _regex(after),
    )  # fmt: skip


def wrong_pattern(config: Mapping[str, Any]) -> str:
    """What is wrong with the first pattern of a configuration, as the middle of a sentence; "" if
    every text in it can be matched without backtracking.

    All fields are looked at, whatever their name: which ones PEFT compiles differs by its version
    and by the kind of adapter.
    """
    program = 0
    for field, texts in _texts(config).items():
        if len(texts) > MAX_STRINGS and field != "target_modules":
            return f"has {len(texts):,} texts in {shown(field)}, and {MAX_STRINGS:,} are taken"
        for text in texts:
            if len(text) <= MAX_CHARACTERS and _PLAIN.fullmatch(text):
                continue
            try:
                pattern = compiled(text)
                if pattern.looks and text != config[field]:  # PEFT puts others into a group
                    raise BadPattern(_LOOK_AROUND)
                program += pattern.program
            except BadPattern as error:
                return f"has a pattern in {shown(field)} that is not taken ({shown(text)}): {error}"
            if program > MAX_PROGRAM:
                return (
                    f"has patterns that would take too long, as in {shown(field)} ({shown(text)})"
                )
    return ""


def _texts(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The different texts of each field that is no free text."""
    found: dict[str, dict[str, None]] = {}
    for field, value in leaves(config):
        if isinstance(value, str) and field not in _FREE_TEXT:
            found.setdefault(field, {})[value] = None
    return {field: list(texts) for field, texts in found.items()}


def _regex(text: str) -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)
        raise BadPattern(_explained(said)) from None


def _explained(said: str) -> str:
    if said.startswith("invalid perl operator"):
        return "it looks behind, or in another way that needs backtracking"
    if said.startswith("invalid escape sequence"):
        return "it refers back to a group, or has an escape that RE2 does not know"
    if said.startswith(("pattern too large", "invalid repetition size")):
        return "it repeats too much"
    return f"it is no regular expression of RE2 ({shown(said)[1:-1]})"


def _split(text: str) -> tuple[str, list[str], str]:
    """What stands before the look-arounds, these, and what stands behind them."""
    pieces = list(_outermost(text))
    places = [place for place, piece in enumerate(pieces) if piece.startswith(tuple(_LOOKS))]
    inner = "".join(piece for piece in pieces if not piece.startswith(tuple(_LOOKS)))
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    behind = pieces[last : last + 1]
    if (
        "|" in pieces
        or places != list(range(first, last))
        or any(look in inner for look in _LOOKS)
        or any(look in pieces[place][3:] for place in places for look in _LOOKS)
        or (behind and behind[0] in "*+?{")
        or any(map(_FLAGS.fullmatch, pieces))
    ):
        raise BadPattern(_LOOK_AROUND)
    return "".join(pieces[:first]), pieces[first:last], "".join(pieces[last:])


def _outermost(text: str) -> Iterator[str]:
    """The pattern in pieces: groups as a whole, everything else character by character."""
    depth = start = 0
    in_class = False
    place = 0
    while place < len(text):
        length = 2 if text[place] == "\\" else 1
        sign = text[place] if length == 1 else ""
        if in_class:
            in_class = sign != "]" or text[place - 1] in "[^"
        elif sign == "[":
            in_class = True
        elif sign == "(":
            if not depth:
                start = place
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth < 0:
                raise BadPattern("it closes a group that it does not open")
            if not depth:
                yield text[start : place + 1]
                place += 1
                continue
        if not depth:
            yield text[place : place + length]
        place += length
    if depth or in_class:
        raise BadPattern("it opens a group that it does not close")


def _match(pattern: str, name: str) -> Any:
    return compiled(pattern).match(name)


def _fullmatch(pattern: str, name: str) -> Any:
    return compiled(pattern).fullmatch(name)


def _search(pattern: str, name: str) -> Any:
    return compiled(pattern).search(name)


MATCHING = SimpleNamespace(
    match=_match,
    fullmatch=_fullmatch,
    search=_search,
    compile=compiled,
    escape=re.escape,
    # What is replaced is given by PEFT and transformers, with look-arounds, never by a field of a
    # configuration; tests/methods/test_peft_matching.py looks for a call that is otherwise.
    sub=re.sub,
    subn=re.subn,
    error=BadPattern,
    Match=re.Match,
    Pattern=re.Pattern,
)
"""What of the module `re` PEFT uses."""


def match_without_backtracking() -> None:
    """Lets PEFT match by RE2 from here on: what is imported of it, and what will be."""
    for name, module in list(sys.modules.items()):
        if _is_peft(name):
            _replace_re(module)
    if not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(MetaPathFinder):
    """Finds the modules of PEFT as Python does, and has each handed its matcher."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not _is_peft(name):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PeftLoader(spec.loader.name, spec.loader.path)
        return spec


class _PeftLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _replace_re(module)


def _is_peft(name: str) -> bool:
    return name.partition(".")[0] == "peft"


def _replace_re(module: ModuleType) -> None:
    for name in [name for name, value in vars(module).items() if value is re]:
        setattr(module, name, MATCHING)
