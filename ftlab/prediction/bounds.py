"""How large a model may say it is: above every published one, and checked before it is built.

Building takes time and memory for every module, so a config of a few bytes could ask for all there
is of both. What is bounded is read from the names of the config's fields, which hundreds of
architectures share. No torch: the web process checks before it asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ftlab.errors import FtlabError
from ftlab.words import shorten

MOST_LAYERS = 512
"""Models merged from others have 315 (BigLlama-3.1-1T), trained ones 126 (Llama 3.1 405B)."""

MOST_EXPERTS = 4_096
"""Switch-C has 2,048 a layer, Kimi K2 384."""

MOST_EXPERTS_OF_ALL_LAYERS = 100_000
"""Switch-C has 30,720 in 15 layers, Qwen3-Next 24,576 in 48."""

_DEEPEST = 12
_LONGEST_LIST = 4_096
_BEYOND = 2**63 - 1


@dataclass(frozen=True)
class Bound:
    """No field whose name matches `names` may be above `most`, as published models are not."""

    what: str
    names: re.Pattern[str]
    most: int


BOUNDS = (
    Bound("token ids", re.compile(r"_(id|ids|index)$"), 2**31),
    Bound("positions", re.compile(r"positions?(_embeddings)?$|^n_ctx$"), 10**9),
    Bound(
        "layers",
        re.compile(
            r"(^|_)(layers?|depths?|num_blocks|n_blocks|num_stages|layers_block_type)$"
            r"|^num_.*_?(layers|blocks|loops|recurrences)$|^n_(layer|blocks)$|^layers_"
        ),
        MOST_LAYERS,
    ),
    Bound("experts", re.compile(r"experts?$|^n_(group|routed)"), MOST_EXPERTS),
    Bound("heads", re.compile(r"heads?(_kv)?$"), 4_096),  # GPT-3 has 96, Llama 3.1 405B 128
    Bound("vocabulary", re.compile(r"vocab"), 4_000_000),  # XLM-V has 901,629 tokens
    Bound(  # the widest feed-forward layer of MT-NLG 530B has 81,920
        "width", re.compile(r"(size|sizes|dim|dims|rank|embd|inner|d_model|d_ff)$"), 4_000_000
    ),
    Bound("count", re.compile(r"^(num|n)_"), 65_536),
)
"""The first one whose names match holds."""

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raises `FtlabError` for a config that is larger than any published model's.

    The sentence names field, value and bound. What remains after it can still be slow: time and
    memory of a prediction have limits of their own (`ftlab.prediction.limits`).
    """
    by_name: dict[str, Bound | None] = {}
    for name, value, depth in _fields(config):
        if depth > _DEEPEST:
            raise FtlabError("The config is nested too deep; give the model's own config.json.")
        if isinstance(value, Mapping):
            _check_experts(value)
        elif isinstance(value, list) and len(value) > _LONGEST_LIST:
            raise FtlabError(
                f"'{_shown(name)}' in the config is a list of {len(value):,} entries; at most "
                f"{_LONGEST_LIST:,} are taken, so give the model's own config.json."
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if name not in by_name:
                by_name[name] = next((b for b in BOUNDS if b.names.search(name)), None)
            _check_number(name, value, by_name[name])


def _check_number(name: str, value: float, bound: Bound | None) -> None:
    if bound is None and isinstance(value, float):
        return  # as an infinite limit of Mamba's time steps: nothing is made in its number
    most = _BEYOND if bound is None else bound.most
    if value == value and -most <= value <= most:
        return
    what = "" if bound is None else f" ({bound.what})"
    raise FtlabError(
        f"'{_shown(name)}' in the config is {_number(value)}; published models have at most "
        f"{most:,}{what}, so no larger one is predicted. Give the model's own config.json."
    )


def _check_experts(config: Mapping[str, Any]) -> None:
    """Layers and experts may each be as many as in one model, and not both at once."""
    sizes = [
        max((config[name] for name in names if type(config.get(name)) is int), default=1)
        for names in (_LAYERS, _EXPERTS)
    ]
    if prod(sizes) > MOST_EXPERTS_OF_ALL_LAYERS and max(sizes) <= MOST_EXPERTS:
        raise FtlabError(
            f"The config asks for {sizes[1]:,} experts in each of {sizes[0]:,} layers; at most "
            f"{MOST_EXPERTS_OF_ALL_LAYERS:,} in all are predicted, which no published model has. "
            "Give the model's own config.json."
        )


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """(name, value, depth) of all that the config holds; entries of a list bear its name."""
    left: list[tuple[str, Any, int]] = [("", config, 0)]
    while left:
        name, value, depth = left.pop()
        yield name, value, depth
        if isinstance(value, Mapping):
            left += [(str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [(name, inner, depth + 1) for inner in value]


def _shown(name: str) -> str:
    return shorten(name, 60)


def _number(value: float) -> str:
    """The number as people read it; one beyond all counting by its power of ten."""
    if isinstance(value, float) or abs(value) < _BEYOND:
        return f"{value:,}"
    return f"about 10^{int(abs(value).bit_length() * 0.30103)}"
