"""From what a person names or pastes to a model's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.methods.rates import ModelSize, size_of
from ftlab.models.catalogue import known_model
from ftlab.models.files import MAX_TEXT_BYTES, read_model_text
from ftlab.models.hub import TIMEOUT_SECONDS, hub_answers
from ftlab.models.reference import BUNDLED_ID, parse_hub_id
from ftlab.models.size import size_of_model
from ftlab.prediction.bounds import check_sizes
from ftlab.reading import open_plain, person_path

MAX_CHARACTERS = 200_000
CONFIG_FILE = "config.json"

_MAX_BYTES = 4 * MAX_CHARACTERS + 1


@dataclass(frozen=True)
class NamedConfig:
    """A config.json, and what its model is called."""

    label: str
    config: Mapping[str, Any]


def find_config(text: str) -> NamedConfig:
    """The config that is pasted, in a file or folder, in the catalogue, or on the Hub, tried so.

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
    """The size of a model, which names it as `find_config` reads it.

    Raises `FtlabError` where its config cannot be had.
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
        with hub_answers(
            name,
            f"The config of '{name}'",
            "Paste its config.json, or choose a model of the catalogue.",
        ):
            # Asked first, because the download tries six times, for half a minute.
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
