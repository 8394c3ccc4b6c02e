"""Validates a PeftConfig in JSON without PEFT, and matches its patterns without backtracking.

The configuration is untrusted: it comes from an uploaded adapter or from a variant. It may not
import code, load a second model or hold NaN or infinity. Each check returns the middle of a
sentence; the caller adds the subject and the fix.

PEFT passes several fields of a configuration to `re`, where a short pattern can take years on one
name (catastrophic backtracking). RE2 takes time proportional to the length of the name and to the
size of the compiled pattern. Patterns that RE2 cannot run (backreferences, most look-arounds,
large counted repeats) are rejected when a configuration is read. When a module of PEFT is imported,
its `re` is replaced by `MATCHING`, so untrusted patterns never run in a backtracking matcher.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import re2

from ftlab.basics.files import inner_values, is_deeper

PEFT_TYPES = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "LORA", "ADALORA",
    "ADAMSS", "BOFT", "ADAPTION_PROMPT", "IA3", "BEFT", "LILY", "LOHA", "LOKR", "OFT", "POLY",
    "LN_TUNING", "VERA", "FROD", "PVERA", "FOURIERFT", "GLORA", "XLORA", "HRA", "VBLORA", "UNILORA",
    "CPT", "MISS", "RANDLORA", "ROAD", "TRAINABLE_TOKENS", "HIRA", "SHIRA", "C3A", "WAVEFT", "OSF",
    "DELORA", "GRALORA", "CARTRIDGE", "TINYLORA", "PSOFT", "PEANUT", "SHADOW", "SUPERTUNING",
    "DEFT",
)  # fmt: skip
"""All adapter types of PEFT 0.21, as named in `peft.utils.peft_types.PeftType`."""

_WANTS_TASK = "it needs the number of a task with every prompt"
CANNOT_ANSWER = {
    "XLORA": "it mixes other LoRA adapters, which are not in its file",
    "MULTITASK_PROMPT_TUNING": _WANTS_TASK,
    "POLY": _WANTS_TASK,
}
"""Adapter types that cannot generate on their own, with the reason."""

_SOFT = "it lays learnt vectors beside the text, and those are no change of a weight"
_ROUTED = "what it adds depends on the input, and a weight is the same for every input"
UNMERGEABLE = {
    "PROMPT_TUNING": _SOFT,
    "MULTITASK_PROMPT_TUNING": _SOFT,
    "P_TUNING": _SOFT,
    "PREFIX_TUNING": _SOFT,
    "CPT": _SOFT,
    "CARTRIDGE": _SOFT,
    "ADAPTION_PROMPT": _SOFT,
    "XLORA": _ROUTED,
    "POLY": _ROUTED,
    "SHADOW": _ROUTED,
}
"""PEFT types without anything to merge, and why; for others PEFT raises if a layer cannot merge."""

BASE_CHANGING_INITS = ("pissa", "corda", "olora", "lora_ga", "loftq")
"""Prefixes of `init_lora_weights` that also overwrite weights of the base model (`update_layer` in
peft/tuners/lora/layer.py). The others (gaussian, eva, orthogonal, mica) only set the adapter."""

CONVERTED_INITS = tuple(start for start in BASE_CHANGING_INITS if start != "loftq")
"""Those whose adapter PEFT can save as plain LoRA on the unchanged base."""

MAX_DEPTH = 32


class Refused(Exception):
    """A rejected text; `what` is the middle of a sentence, as in "is not valid JSON in UTF-8"."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, read as `read_json` does; raises `Refused` for anything else."""
    config = read_json(data)
    if not isinstance(config, dict):
        raise Refused("holds no JSON object")
    return config


def read_json(data: bytes) -> Any:
    """The parsed JSON of `data`.

    Raises `Refused` for invalid JSON, duplicate keys, NaN, infinity, and too deep nesting.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_each_once
        )
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError:  # also UnicodeDecodeError, JSONDecodeError
        raise Refused("is not valid JSON in UTF-8") from None
    if is_deeper(value, MAX_DEPTH):
        raise Refused(f"is nested more than {MAX_DEPTH} levels deep")
    if any(isinstance(v, float) and not math.isfinite(v) for _, v in leaves({"": value})):
        raise Refused("holds a number that is too large")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refused(f"names {shown(key)} twice")
        found[key] = value
    return found


def leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (top-level key, item) for each key of a nested object and each scalar value."""
    for key, value in config.items():
        for item in _nested(value):
            if isinstance(item, dict):
                yield from ((key, inner) for inner in item)
            elif not isinstance(item, list):
                yield key, item


def _nested(value: Any) -> Iterator[Any]:
    """The value, and all values inside of it."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        yield item
        open_values.extend(inner_values(item))


def unknown_type(peft_type: Any) -> str:
    """Why PEFT does not know this adapter type; "" if it does."""
    if isinstance(peft_type, str) and peft_type in PEFT_TYPES:
        return ""
    return f"has the peft_type {shown(peft_type)}, which PEFT 0.21 does not know"


def foreign_part(config: Mapping[str, Any]) -> str:
    """Describes foreign code or a second model that the configuration requests; "" if none."""
    for key, value in config.items():
        hook = key in ("auto_map", "megatron_config") or key.startswith("custom")
        if hook and value:
            return f"asks for code of its own ({shown(key)}), which is never run"
    if any(isinstance(x, dict) and x.get("trust_remote_code") for x in _nested(dict(config))):
        return "asks for code of the Hub (trust_remote_code), which is never run"
    for key, value in config.items():
        if key.endswith("_kwargs") and value:
            return f"says how to load other files ({shown(key)}), and none are loaded"
    if config.get("arrow_config"):
        return "routes between other adapters (arrow_config)"
    if config.get("shadow_model") not in (None, "mirror"):
        return "names a second model to load (shadow_model)"
    return ""


def base_changes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields that would change the weights of the base model, each with its effect."""
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(BASE_CHANGING_INITS):
        yield (
            "init_lora_weights",
            f"says init_lora_weights={start[:40]!r}: the adapter is relative to changed base "
            "weights",
        )
    if config.get("kasa_config"):
        yield "kasa_config", "uses KaSA, which cuts the base's own weights"
    if config.get("layer_replication"):
        yield "layer_replication", "repeats layers of the base (layer_replication)"
    if config.get("bias") not in (None, "none"):
        yield "bias", f"replaces biases of the base (bias={shown(config['bias'])})"


def shown(value: Any) -> str:
    """A value formatted for a message: short, and without terminal control characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


MAX_CHARACTERS = 20_000
"""Limit for one pattern. The names of all attention layers of a large model take 10,000."""

MAX_PROGRAM = 5_000
"""Limit of RE2 instructions of all patterns of a configuration; the slowest took 5 ms per name. A
hand-written one has about 300, one that lists every layer of a large model 4,000."""

MAX_STRINGS = 5_000
"""Limit of strings in one field, since PEFT matches each one against every layer. `target_modules`
is exempt: it may list all experts, and PEFT only compares those names."""

WAY_OUT = "name the layers in a list"

_MEMORY_BYTES = 2 << 20  # for RE2's state cache; with less it is 300 times slower
_LOOK_FACTOR = 30  # a pattern with a look-around runs from every position of a name
_FREE_TEXT = frozenset({
    "base_model_name_or_path", "revision", "tokenizer_name_or_path", "peft_version",
    "prompt_tuning_init_text",
})  # fmt: skip
"""Fields that hold model names or free text. All other fields are checked for patterns."""

_PLAIN = re.compile(r"[\w.-]*", re.ASCII)
_NAMED = re.compile(r"\(\.\*\\\.\)\?\([\w.-]*\)\$", re.ASCII)
"""The pattern that PEFT builds from a name to look it up in rank_pattern. Here `re` has only one
position to backtrack to, and is ten times faster than RE2 from Python. A config with a rank for
every layer causes thousands of such look-ups."""

_LOOKS = {"(?=": False, "(?!": True}
_OF_THE_PLACE = re.compile(r"\\[bBA]|(?<!\[)\^")
_FLAGS = re.compile(r"\(\?[A-Za-z-]+\)")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\\\]])*+\]?|.", re.DOTALL)
"""An escape, a class, or a character; the end of a class is optional, so it takes linear time."""


class BadPattern(ValueError):
    """A pattern that is rejected; the message is the reason as the rest of a sentence."""


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern. One with look-aheads only supports `fullmatch` and is split: `regex` is
    the part before them, `after` the part behind them; `looks` has True for each negative one."""

    text: str
    regex: Any
    looks: tuple[tuple[Any, bool], ...] = ()
    after: Any = None

    @property
    def program(self) -> int:
        """Number of RE2 instructions; times `_LOOK_FACTOR` if there is a look-ahead."""
        if self.after is None:
            return int(getattr(self.regex, "programsize", len(self.text)))
        parts = (self.regex, self.after, *(look for look, _ in self.looks))
        return _LOOK_FACTOR * sum(part.programsize for part in parts)

    def fullmatch(self, name: str) -> Any:
        """A match object, or `True` for a pattern with look-aheads; a false value if no match."""
        if self.after is None:
            return self.regex.fullmatch(name)
        return any(
            self.regex.fullmatch(name[:place])
            and all(bool(look.match(name[place:])) != forbids for look, forbids in self.looks)
            and self.after.fullmatch(name[place:])
            for place in range(len(name) + 1)
        )

    def match(self, name: str) -> Any:
        """The match at the start of the name, or `None`."""
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
    """Compiles the pattern with RE2. Raises `BadPattern` if it is not supported.

    Look-aheads in a row are, outside of groups and alternatives: "^(?!.*vision).*q_proj".
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
    """What is wrong with the first unsupported pattern, as the middle of a sentence; "" if none.

    Checks all fields but free text: PEFT's versions and adapter types compile different ones.
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
                if pattern.looks and text != config[field]:  # PEFT wraps list items in a group
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
    """The distinct strings of each field that is not free text."""
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
    """Splits the pattern into the part before the look-aheads, these, and the part after them."""
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
    """Splits the pattern into pieces: each top-level group or class as a whole, the rest by
    character."""
    depth, piece = 0, ""
    for token in _TOKEN.findall(text):
        depth += (token == "(") - (token == ")")
        if depth < 0:
            raise BadPattern("it closes a group that it does not open")
        piece += token
        if not depth:
            yield piece
            piece = ""
    if depth:
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
    # Patterns for `sub` come from PEFT and transformers (with look-arounds), never from a field of
    # a configuration; tests/methods/test_peft_matching.py checks all calls for this.
    sub=re.sub,
    subn=re.subn,
    error=BadPattern,
    Match=re.Match,
    Pattern=re.Pattern,
)
"""The part of the `re` API that PEFT uses."""


def match_without_backtracking() -> None:
    """Makes PEFT match with RE2: patches its imported modules and those imported later."""
    for name, module in list(sys.modules.items()):
        if _is_peft(name):
            _replace_re(module)
    if not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(MetaPathFinder):
    """Finds modules of PEFT with Python's default finder, and loads them with `_PeftLoader`."""

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
