"""Naming a base model: the bundled one, a local folder, or a Hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import person_path

BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The public id of the bundled model: what an adapter's config names, never a cache path."""

BUNDLED_LABEL = "SmolLM2-135M-Instruct (bundled)"


@dataclass(frozen=True)
class ModelReference:
    """`name` is the bundled model's public id, the folder's absolute path, or the Hub id."""

    kind: Literal["bundled", "folder", "hub"]
    name: str

    @property
    def label(self) -> str:
        return model_label(self.name)


def model_label(name: str) -> str:
    """A short name to show for the canonical name in a record; never raises."""
    if name in ("bundled", BUNDLED_ID):
        return BUNDLED_LABEL
    return Path(name).name if name.startswith("/") else name


def parse_model(text: str) -> ModelReference:
    """Reads "bundled", the bundled model's id, a path, or a Hub id.

    A path is what begins with "/", "." or "~", or names a folder that exists. Raises `FtlabError`
    for anything else, and for a path that holds no model.
    """
    name = text.strip()
    if name in ("bundled", BUNDLED_ID, BUNDLED_ID.split("/")[1]):
        return ModelReference("bundled", BUNDLED_ID)
    if "\x00" in name:
        raise FtlabError("The model's name holds a NUL character; give a folder or a Hub id.")
    path = person_path(name)
    if name and (name[0] in "/.~" or path.is_dir()):
        return ModelReference("folder", str(_model_folder(path)))
    return ModelReference("hub", parse_hub_id(name))


def is_hub_id(name: str) -> bool:
    """Whether the Hub can have a repository of that name, of a model or of data.

    The library's own rule, which the names of its cache folders ("models--a--b") break.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_owned_hub_id(name: str) -> bool:
    """Whether the name is a Hub id of the form "owner/name"."""
    return "/" in name and is_hub_id(name)


def parse_hub_id(name: str) -> str:
    """The Hub id; raises `FtlabError` for what cannot be one."""
    if not is_hub_id(name):
        raise FtlabError(
            f"'{name[:200]}' names no model: give 'bundled', a folder, or a Hub id such as "
            f"{BUNDLED_ID}."
        )
    return name


def names_hub_model(text: str) -> bool:
    """Whether the name is that of a model of the Hub; never raises."""
    try:
        return parse_model(text).kind == "hub"
    except FtlabError:
        return False


def _model_folder(path: Path) -> Path:
    folder = path.resolve()
    if not folder.is_dir():
        raise FtlabError(f"There is no model folder '{path}'.")
    if not (folder / "config.json").is_file():
        raise FtlabError(f"The folder '{path}' holds no config.json, so it is no model folder.")
    if not any(folder.glob("*.safetensors")):
        raise FtlabError(
            f"The folder '{path}' holds no .safetensors file; other weight formats can run code "
            "when they are opened and are not read. Convert it with save_pretrained first."
        )
    return folder
