"""Full fine-tunings, each with weights of its own, kept while memory allows."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection

import torch
from transformers import PreTrainedModel

from ftlab.errors import FtlabError, one_line
from ftlab.models.loading import give_back_memory, load_base_model, weight_dtype
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.playground.panes import PaneSource
from ftlab.playground.wearing import Worn, sha256_of
from ftlab.settings.training import DtypePolicy
from ftlab.units import format_bytes

SPARE_BYTES = 256 << 20
"""What must stay free beside a model: its cache of keys and values, and the rest of the machine."""

FreeBytes = Callable[[], int | None]


class FullModels:
    """The models by their pane's name; the least recently used ones make room for others.

    `free_bytes` says what the device has left, `limit` what all of them may hold together.
    """

    def __init__(self, device: torch.device, free_bytes: FreeBytes, limit: int) -> None:
        self._device = device
        self._free_bytes = free_bytes
        self._limit = limit
        self._held: OrderedDict[str, tuple[Worn, int]] = OrderedDict()

    def get(self, source: PaneSource, policy: DtypePolicy, in_use: Collection[str]) -> Worn:
        """The model of the source, loaded unless it is there; `in_use` are not dropped for it.

        Raises `FtlabError` if its weights are missing or damaged, or there is no memory for it.
        """
        if source.name in self._held:
            self._held.move_to_end(source.name)
            return self._held[source.name][0]
        size = self._size(source, policy)
        self._make_room(source, size, in_use)
        worn = self._load(source, policy)
        self._held[source.name] = (worn, size)
        return worn

    def clear(self) -> None:
        self._held.clear()

    @property
    def names(self) -> list[str]:
        """Those that are loaded, least recently used first."""
        return list(self._held)

    def _size(self, source: PaneSource, policy: DtypePolicy) -> int:
        assert source.folder is not None
        files = sorted(source.folder.glob("*.safetensors"))
        if not files:
            raise FtlabError(
                f"The weights of '{source.label}' are not there: its folder holds no .safetensors "
                "file; run it again, or choose another."
            )
        wide = weight_dtype(policy, self._device, weights_learn=False) is torch.float32
        return sum(file.stat().st_size for file in files) * (2 if wide else 1)

    def _make_room(self, source: PaneSource, size: int, in_use: Collection[str]) -> None:
        while not self._fits(size):
            idle = [name for name in self._held if name not in in_use]
            if not idle:
                raise FtlabError(self._no_room(source, size))
            del self._held[idle[0]]
            give_back_memory(self._device)

    def _fits(self, size: int) -> bool:
        free = self._free_bytes()
        held = sum(bytes_ for _, bytes_ in self._held.values())
        return held + size <= self._limit and (free is None or size + SPARE_BYTES <= free)

    def _no_room(self, source: PaneSource, size: int) -> str:
        held = sum(bytes_ for _, bytes_ in self._held.values())
        free = self._free_bytes()
        left = "" if free is None else f", {format_bytes(free)} is free"
        return (
            f"There is no memory for another full model: '{source.label}' needs "
            f"{format_bytes(size)}{left}, and {len(self._held)} of this prompt hold "
            f"{format_bytes(held)} of the {format_bytes(self._limit)} set apart for them; choose "
            "fewer full fine-tunings, or 16 bits."
        )

    def _load(self, source: PaneSource, policy: DtypePolicy) -> Worn:
        assert source.folder is not None
        folder = source.folder
        resolved = ResolvedModel(ModelReference("folder", str(folder)), folder)
        try:
            model: PreTrainedModel = load_base_model(resolved, policy, None, self._device)
        except Exception as error:
            traceback.print_exc()
            raise FtlabError(
                f"The weights of '{source.label}' cannot be loaded: they are damaged or made for "
                f"another shape ({one_line(error)[:160]}); run it again, or choose another."
            ) from error
        files = sorted(folder.glob("*.safetensors"))
        return Worn(None, model.requires_grad_(False).eval(), sha256_of(files))
