"""References to a base model: the bundled one, a local folder, or a Hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import person_path

BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The public id of the bundled model; adapter configs contain it, never a cache path."""

BUNDLED_LABEL = "SmolLM2-135M-Instruct (bundled)"


ModelKind = Literal["bundled", "folder", "hub"]


@dataclass(frozen=True)
class ModelReference:
    """A base model; `name` is the bundled model's public id, an absolute path, or a Hub id."""

    kind: ModelKind
    name: str

    @property
    def label(self) -> str:
        return model_label(self.name)


def model_label(name: str) -> str:
    """The display name for the canonical name in a record; never raises."""
    if name in ("bundled", BUNDLED_ID):
        return BUNDLED_LABEL
    return Path(name).name if name.startswith("/") else name


def parse_model(text: str) -> ModelReference:
    """Parses "bundled", the bundled model's id, a path, or a Hub id.

    Text is a path if it begins with "/", "." or "~", or names an existing folder. Raises
    `FtlabError` for anything else, and for a path without a model.
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
    """Whether the name is a valid Hub repository id, for a model or a data set.

    Uses the library's own rule, which rejects its cache folder names ("models--a--b").
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
    """Returns the Hub id; raises `FtlabError` if it is not a valid one."""
    if not is_hub_id(name):
        raise FtlabError(
            f"'{name[:200]}' names no model: give 'bundled', a folder, or a Hub id such as "
            f"{BUNDLED_ID}."
        )
    return name


def kind_of_name(text: str) -> ModelKind | None:
    """The kind of model that the name refers to; `None` if `parse_model` rejects the name."""
    try:
        return parse_model(text).kind
    except FtlabError:
        return None


def names_hub_model(text: str) -> bool:
    return kind_of_name(text) == "hub"


def is_bundled(name: str) -> bool:
    """Whether the name is the bundled model, on which the learning rates were tuned."""
    return kind_of_name(name) == "bundled"


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
