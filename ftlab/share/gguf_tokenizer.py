"""A model's byte-level BPE tokenizer and chat template, as the keys of a GGUF file.

llama.cpp tokenises by itself. It knows the first step, in which a text is split into words before
merging, by a name alone (`tokenizer.ggml.pre`, src/llama-vocab.cpp): a tokenizer with another split
is refused, since it would get other tokens without an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.models.files import MAX_TEXT_BYTES, read_model_json, read_model_text

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens (`gguf.TokenType`)."""

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"

GPT2 = "GPT-2's pattern"
DIGITS = "single digits"

SPLITS: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "dbrx",
    ((_QWEN2,), False): "qwen2",
}
"""llama.cpp's name by the steps of the split, and by whether a word that is a token stays whole."""

_SPLITS_BY_MERGES = {
    "aea6ed50becdb3beed814d2fde2dea2e655d1039addf269d74a4708ce2ed4d63": "smollm",
}
"""SmolLM2's, by the SHA-256 of its merges. The bundled copy was read from GGUF by transformers,
which forgets the first step, single digits; its merges have no two digits together, so the tokens
differ only in two or more spaces or line breaks before a digit."""

_MOST_BYTES = 4 * MAX_TEXT_BYTES
_IDS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of the tokenizer. `ids` are those of special tokens, by their keys."""

    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    ids: Mapping[str, int]
    flags: Mapping[str, bool]
    chat_template: str | None


def read_vocabulary(folder: Path, config: Mapping[str, Any], model: str) -> Vocabulary:
    """Reads tokenizer.json, tokenizer_config.json and the chat template of a model's folder.

    Ids up to the config's `vocab_size` without a token are filled up. Raises `FtlabError` with
    `model`, its name, if llama.cpp would not tokenise as transformers does.
    """
    try:
        file = folder / "tokenizer.json"
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings = read_model_json(folder / "tokenizer_config.json")
        bpe = raw["model"]
        if bpe.get("type") != "BPE" or "ByteLevel" not in _kinds(raw.get("decoder")):
            _refuse(model, "no byte-level BPE tokenizer")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
        if not merges:
            _refuse(model, "a tokenizer without merges")
        pre = _split(raw, merges, model)
        size = int(config["vocab_size"])
        tokens, kinds = _tokens(raw, size, model)
        return Vocabulary(
            pre,
            tokens,
            kinds,
            tuple(merges),
            _ids(tokens, settings, config),
            _flags(folder, tokens, settings),
            _chat_template(folder, settings),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FtlabError(
            f"The tokenizer of {model} cannot be read ({error}); a GGUF file holds it, so put "
            "tokenizer.json and tokenizer_config.json into the model's folder."
        ) from None


def _refuse(model: str, what: str) -> None:
    raise FtlabError(
        f"{model} has {what}, which is not written as GGUF here, since llama.cpp might get other "
        "tokens; ask llama.cpp's convert_hf_to_gguf.py for it, with the folder of the merged model."
    )


def _split(raw: Mapping[str, Any], merges: list[str], model: str) -> str:
    # llama.cpp leaves NFC out; a text that is typed is in it already.
    normalizer = raw.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        _refuse(model, f"a tokenizer that changes the text first ({normalizer.get('type')})")
    known = _SPLITS_BY_MERGES.get(hashlib.sha256("\n".join(merges).encode()).hexdigest())
    steps = _steps(raw.get("pre_tokenizer"))
    name = known or SPLITS.get((steps, bool(raw["model"].get("ignore_merges"))))
    if name is None:
        _refuse(model, "a tokenizer that splits words in a way of its own")
    return str(name)


def _steps(step: Any) -> tuple[str, ...]:
    """The steps in words of `SPLITS`; a step that is not among them stays as its JSON."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*inner]}:
            return tuple(name for one in inner for name in _steps(one))
        case {"type": "Digits", "individual_digits": True}:
            return (DIGITS,)
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}:
            return ()
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return (GPT2,)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
            return (pattern,) if not step.get("invert") else (json.dumps(step),)
    return (json.dumps(step),)


def _kinds(step: Any) -> set[str]:
    inner = step.get("decoders", []) if isinstance(step, dict) else []
    return {str((step or {}).get("type")), *(str(one.get("type")) for one in inner)}


def _tokens(
    raw: Mapping[str, Any], size: int, model: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    tokens = {int(at): token for token, at in raw["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for added in raw.get("added_tokens", []):
        token, at = added["content"], int(added["id"])
        tokens[at] = token
        # As llama.cpp's conversion: such a token is never meant to be read as text.
        control = added.get("special") or (token.startswith("<|") and token.endswith("|>"))
        kinds[at] = CONTROL if control else USER_DEFINED
    if max(tokens) >= size:
        _refuse(model, f"a tokenizer of {max(tokens) + 1:,} tokens and weights for {size:,}")
    filled = tuple(tokens.get(i, f"[PAD{i}]") for i in range(size))
    if len(set(filled)) < size:
        _refuse(model, "two tokens of the same text")
    return filled, tuple(kinds.get(i, UNUSED) for i in range(size))


def _ids(
    tokens: tuple[str, ...], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """The tokenizer's own special tokens; where it names none, those of the model."""
    places = {token: at for at, token in enumerate(tokens)}
    found = {}
    for name, key in _IDS.items():
        named = settings.get(f"{name}_token")
        named = named.get("content") if isinstance(named, dict) else named
        at = places.get(named) if isinstance(named, str) else config.get(f"{name}_token_id")
        if type(at) is int and 0 <= at < len(tokens):
            found[key] = at
    return found


def _flags(folder: Path, tokens: tuple[str, ...], settings: Mapping[str, Any]) -> dict[str, bool]:
    """What the tokenizer sets around a text by itself, seen on one."""
    from tokenizers import Tokenizer

    around = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids
    first, last = tokens[around[0]], tokens[around[-1]]

    def is_set(name: str, token: str) -> bool:
        named = settings.get(f"{name}_token")
        named = named.get("content") if isinstance(named, dict) else named
        return len(around) > 1 and token == named

    return {
        "tokenizer.ggml.add_bos_token": is_set("bos", first),
        "tokenizer.ggml.add_eos_token": is_set("eos", last),
        "tokenizer.ggml.add_space_prefix": False,
    }


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_model_text(file)
    found = settings.get("chat_template")
    return found if isinstance(found, str) else None
