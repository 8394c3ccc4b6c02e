"""Shapes of well-known models that ship with ftlab, so that any of them can be planned offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ftlab.basics.files import assets_folder


@dataclass(frozen=True)
class KnownModel:
    """`config` is what its config.json says of its shape; `parameters` is their published number.

    GPT-3 was never published as a file: it has GPT-2's layers in the sizes of its paper (Brown et
    al. 2020, table 2.1).
    """

    id: str
    label: str
    parameters: int
    config: dict[str, Any]

    @property
    def is_on_hub(self) -> bool:
        """Whether its id is one of the Hugging Face Hub, so that it can be fetched and trained."""
        return "/" in self.id


@lru_cache(maxsize=1)
def catalogue() -> tuple[KnownModel, ...]:
    rows = json.loads((assets_folder() / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(KnownModel(**row) for row in rows)


def is_known_config(config: Mapping[str, Any]) -> bool:
    """Whether it is the config of a model of the catalogue, as it stands there."""
    return any(config == model.config for model in catalogue())


def known_model(name: str) -> KnownModel | None:
    """The model of that id, last part of an id, or label, whatever the case."""
    wanted = name.strip().lower()
    for model in catalogue():
        if wanted in (model.id.lower(), model.id.lower().rpartition("/")[2], model.label.lower()):
            return model
    return None
