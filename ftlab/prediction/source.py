"""Finds a model's config.json from the user's input, and checks its sizes.

Building a model takes time and memory for every module, so a tiny config could use up all of both.
The limits are applied by field names, which are common to hundreds of architectures. No torch: the
web process checks a config before it sends a question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import open_plain, person_path
from ftlab.basics.words import shorten
from ftlab.methods.rates import ModelSize, size_of
from ftlab.models.dimensions import known_model, size_of_model
from ftlab.models.files import MAX_TEXT_BYTES, read_model_text
from ftlab.models.hub import TIMEOUT_SECONDS, hub_answers
from ftlab.models.reference import BUNDLED_ID, parse_hub_id

MOST_LAYERS = 512
"""Merged models have up to 315 (BigLlama-3.1-1T), trained ones up to 126 (Llama 3.1 405B)."""

MOST_EXPERTS = 4_096
"""Per layer: Switch-C has 2,048, Kimi K2 384."""

MOST_EXPERTS_OF_ALL_LAYERS = 100_000
"""Switch-C has 30,720 in 15 layers, Qwen3-Next 24,576 in 48."""

_DEEPEST = 12
_LONGEST_LIST = 4_096
_BEYOND = 2**63 - 1


@dataclass(frozen=True)
class Bound:
    """Fields whose name matches `names` must be at most `most`, as in published models."""

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
"""The first bound whose `names` match applies."""

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raises `FtlabError` for a config that is larger than any published model's.

    The message names field, value and bound. An accepted config can still be slow: a prediction has
    its own limits of time and memory (`ftlab.prediction.question`).
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
        return  # for example Mamba's infinite time step limit: not a size
    most = _BEYOND if bound is None else bound.most
    if value == value and -most <= value <= most:
        return
    what = "" if bound is None else f" ({bound.what})"
    raise FtlabError(
        f"'{_shown(name)}' in the config is {_number(value)}; published models have at most "
        f"{most:,}{what}, so no larger one is predicted. Give the model's own config.json."
    )


def _check_experts(config: Mapping[str, Any]) -> None:
    """Checks the product of layers and experts, each of which may be within its own bound."""
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
    """Yields (name, value, depth) of all values; entries of a list have the list's name."""
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
    """Formats the number; a very large one as a power of ten."""
    if isinstance(value, float) or abs(value) < _BEYOND:
        return f"{value:,}"
    return f"about 10^{int(abs(value).bit_length() * 0.30103)}"


MAX_CHARACTERS = 200_000
CONFIG_FILE = "config.json"

_MAX_BYTES = 4 * MAX_CHARACTERS + 1


@dataclass(frozen=True)
class NamedConfig:
    """A config.json, and a label for its model."""

    label: str
    config: Mapping[str, Any]


def find_config(text: str) -> NamedConfig:
    """Finds the config: pasted JSON, catalogue name, file or folder, or Hub id, in this order.

    Raises `FtlabError` with what was tried and what to do.
    """
    name = text.strip()
    if not name:
        raise FtlabError("No model is named; give a Hub id, a folder, or paste its config.json.")
    if name.startswith("{"):
        return NamedConfig("pasted config", _parse(name, "The pasted config"))
    if "\x00" in name:
        raise FtlabError("The model's name holds a NUL character; give a folder or a Hub id.")
    known = known_model(BUNDLED_ID if name == "bundled" else name)
    if known is not None:
        return NamedConfig(known.label, known.config)
    path = person_path(name)
    if name[0] in "/.~" or path.exists():
        return _from_path(path)
    return NamedConfig(name, _from_hub(parse_hub_id(name)))


def find_size(model: str) -> ModelSize:
    """Returns the size of a model, named as for `find_config`.

    Raises `FtlabError` if its config is not available.
    """
    return size_of_model(model) or size_of(find_config(model).config)


def _from_path(path: Path) -> NamedConfig:
    file = path / CONFIG_FILE if path.is_dir() else path
    label = file.resolve().parent.name if file.name == CONFIG_FILE else file.stem
    try:
        with open_plain(file, follow_link=True) as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise FtlabError(
            f"'{file}' cannot be read ({error.strerror}); name a model's folder or its config.json."
        ) from None
    except UnicodeDecodeError:
        raise FtlabError(f"'{file}' is no text in UTF-8, so it is no config.json.") from None
    return NamedConfig(label, _parse(text, f"'{file}'"))


def _from_hub(name: str) -> dict[str, Any]:
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    file = try_to_load_from_cache(name, CONFIG_FILE)
    if not isinstance(file, str):
        otherwise = "Paste its config.json, or choose a model of the catalogue."
        with hub_answers(name, "config of", otherwise):
            # Checked first, because the download retries six times, for half a minute.
            found = get_hf_file_metadata(hf_hub_url(name, CONFIG_FILE), timeout=TIMEOUT_SECONDS)
            if (found.size or 0) > MAX_TEXT_BYTES:
                raise FtlabError(
                    f"The config of '{name}' has {found.size:,} bytes, so it is no config.json."
                )
            file = hf_hub_download(name, CONFIG_FILE, etag_timeout=TIMEOUT_SECONDS)
    try:
        text = read_model_text(Path(file))
    except UnicodeDecodeError:
        raise FtlabError(f"The config of '{name}' is no text in UTF-8.") from None
    except OSError as error:
        raise FtlabError(
            f"The config of '{name}' in the Hub's cache cannot be read ({error.strerror}); "
            "remove it there, or paste its config.json."
        ) from None
    return _parse(text, f"The config of '{name}'")


def _parse(text: str, what: str) -> dict[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise FtlabError(
            f"{what} has more than {MAX_CHARACTERS:,} characters, so it is no config.json."
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise FtlabError(f"{what} is not valid JSON{where}; give the file as it is.") from None
    if not isinstance(config, dict):
        raise FtlabError(f"{what} is no JSON object, so it is no config.json.")
    check_sizes(config)
    return config
