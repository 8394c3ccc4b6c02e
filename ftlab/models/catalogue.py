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
    """`config` is the shape part of its config.json; `parameters` is the published count.

    GPT-3 was never published as a file: its entry has GPT-2's layers in the sizes of its paper
    (Brown et al. 2020, table 2.1).
    """

    id: str
    label: str
    parameters: int
    config: dict[str, Any]

    @property
    def is_on_hub(self) -> bool:
        """Whether its id is a Hugging Face Hub id, so that it can be downloaded and trained."""
        return "/" in self.id


@lru_cache(maxsize=1)
def catalogue() -> tuple[KnownModel, ...]:
    rows = json.loads((assets_folder() / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(KnownModel(**row) for row in rows)


def is_known_config(config: Mapping[str, Any]) -> bool:
    """Whether it equals the config of a model in the catalogue."""
    return any(config == model.config for model in catalogue())


def known_model(name: str) -> KnownModel | None:
    """The model with that id, last part of an id, or label; ignores case."""
    wanted = name.strip().lower()
    for model in catalogue():
        if wanted in (model.id.lower(), model.id.lower().rpartition("/")[2], model.label.lower()):
            return model
    return None
