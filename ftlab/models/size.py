"""The size of a model that rules for learning rates go by: read from its config.json in no time."""

from __future__ import annotations

from ftlab.errors import FtlabError
from ftlab.methods.rates import TUNED_ON, ModelSize, size_of
from ftlab.models.catalogue import known_model
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ResolvedModel, local_folder


def size_of_model(name: str) -> ModelSize | None:
    """The size of the model that `parse_model` reads the name as.

    `None` where its config is neither on this machine nor in the catalogue, or cannot be read.
    """
    try:
        reference = parse_model(name)
        if reference.kind == "bundled":
            return TUNED_ON
        folder = local_folder(reference)
        if folder is not None:
            return size_of(ResolvedModel(reference, folder).config())
    except (FtlabError, OSError, ValueError):
        return None  # said where the model is checked and loaded
    known = known_model(reference.name)
    return None if known is None else size_of(known.config)


def is_bundled(name: str) -> bool:
    """Whether it is the model that the learning rates were tuned on."""
    try:
        return parse_model(name).kind == "bundled"
    except FtlabError:
        return False


def is_model(name: str) -> bool:
    """Whether it names a model at all, be it here or on the Hub."""
    try:
        parse_model(name)
    except FtlabError:
        return False
    return True
