"""The models that answer: one base in memory, and each run's adapter on those same weights.

A pane's model is a copy of the base's module tree whose parameters and buffers are the base's own,
with the run's adapter laid over it by PEFT. No weight is copied, and the base stays the base.
A full fine-tuning has weights of its own; only the latest one asked for stays loaded.
"""

from __future__ import annotations

import copy
import hashlib
import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.errors import FtlabError, one_line
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel, resolve_model
from ftlab.playground.answer import Answering, answer
from ftlab.playground.protocol import (
    BASE,
    WAITING,
    GenerateRequest,
    PaneUpdate,
    Stopped,
    base_model,
    same_name,
)
from ftlab.runs.directory import RunDirectory, find_run
from ftlab.runs.spec import RunSpec
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.training.arithmetic import Arithmetic, compute_adapters_in_low_precision

ADAPTERS_KEPT = 12
"""Adapters that stay loaded; each holds only its own small weights."""

_EMBEDDINGS = ("embed_tokens", "lm_head")

Model = TypeVar("Model", bound=nn.Module)
Send = Callable[[PaneUpdate], None]


@dataclass(frozen=True)
class PaneModel:
    """What a pane answers with; `sha256` is that of the run's weights, "" for the base."""

    model: PreTrainedModel | PeftModel
    sha256: str = ""
    note: str = ""


class Engine:
    """Answers requests on one device, one pane after the other."""

    def __init__(self, runs_folder: Path, device: torch.device) -> None:
        self.runs_folder = runs_folder
        self.arithmetic = Arithmetic("bf16", device)
        self._name = ""
        self._base: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._adapters: OrderedDict[str, PaneModel] = OrderedDict()
        self._full: tuple[str, PaneModel] | None = None

    def answer(self, request: GenerateRequest, send: Send, check: Callable[[], None]) -> None:
        """Answers every pane, the base first.

        `send` gets the updates; an error of one pane is said in that pane and the others go on.
        `check` is called between tokens and raises `Stopped` to end the whole request.
        """
        order = sorted(range(len(request.panes)), key=lambda pane: request.panes[pane] != BASE)
        try:
            name = base_model(request, self.runs_folder)
            if same_name(name) != self._name:
                for pane in order:
                    send(PaneUpdate(pane, "status", "Loading the base model …"))
                self.load(name)
            answering = self._answering(request)
        except Exception as error:
            sentence = _sentence(error, "The base model could not be loaded")
            for pane in order:
                send(PaneUpdate(pane, "error", sentence))
            return
        for pane in order:
            send(PaneUpdate(pane, "status", WAITING))
        for pane in order:
            check()
            self._answer_pane(pane, request.panes[pane], answering, send, check)

    def load(self, name: str) -> None:
        """Makes this the resident base; everything on the one before is let go first."""
        self._name, self._base, self._full = "", None, None
        self._adapters.clear()
        source = resolve_model(name, say=print)
        self._tokenizer = load_tokenizer(source)
        base = load_base_model(source, "bf16", None, self.arithmetic.device)
        self._base = base.requires_grad_(False).eval()
        self._name = same_name(name)

    @property
    def base(self) -> PreTrainedModel:
        assert self._base is not None, "load a base first"
        return self._base

    def pane_model(self, pane: str) -> PaneModel:
        """The base, or the run's model, loaded unless it is there already.

        Raises `FtlabError` if the run's weights are missing, damaged or made for another shape.
        """
        if pane == BASE:
            return PaneModel(self.base)
        if pane in self._adapters:
            self._adapters.move_to_end(pane)
            return self._adapters[pane]
        if self._full is not None and self._full[0] == pane:
            return self._full[1]
        directory = find_run(self.runs_folder, pane)
        spec = directory.spec()
        if spec.variant is not None and not spec.variant.spec.is_adapter:
            self._full = None  # before the next is loaded, so that two never lie in memory
            self._full = (pane, self._load_full(directory, spec))
            return self._full[1]
        loaded = self._load_adapter(directory, spec)
        self._adapters[pane] = loaded
        if len(self._adapters) > ADAPTERS_KEPT:
            self._adapters.popitem(last=False)
        return loaded

    def _answering(self, request: GenerateRequest) -> Answering:
        assert self._tokenizer is not None
        formatter = PromptFormatter(TransformersTokenizer(self._tokenizer))
        return Answering(request, self._tokenizer, formatter, self.arithmetic)

    def _answer_pane(
        self, pane: int, name: str, answering: Answering, send: Send, check: Callable[[], None]
    ) -> None:
        began = time.perf_counter()
        try:
            send(PaneUpdate(pane, "status", "Answering …"))
            worn = self.pane_model(name)
            swap = None if name == BASE else time.perf_counter() - began
            answer(worn.model, answering, pane, send, check, swap, worn.note, worn.sha256)
        except Stopped:
            raise
        except Exception as error:
            send(PaneUpdate(pane, "error", _sentence(error, "This pane could not answer")))

    def _load_adapter(self, directory: RunDirectory, spec: RunSpec) -> PaneModel:
        folder, run_id = directory.adapter, directory.run_id
        weights = folder / "adapter_model.safetensors"
        for file in (folder / "adapter_config.json", weights):
            if not file.is_file():  # PEFT would look for it on the Hub
                raise FtlabError(
                    f"The adapter of run '{run_id}' is not there: {file.name} is missing; "
                    "run it again, or choose another."
                )
        try:
            with warnings.catch_warnings():
                # To PEFT an adapter that lacks layers is worth a warning; the pane would lie.
                warnings.filterwarnings("error", message=".*missing adapter keys")
                model = PeftModel.from_pretrained(
                    clone_on_same_weights(self.base), str(folder), is_trainable=False
                )
            _check_every_weight_is_worn(model, weights)
        except Exception as error:
            raise self._does_not_fit(run_id, error) from error
        model.eval()
        compute_adapters_in_low_precision(model)
        return PaneModel(model, sha256_of([weights]), _note(spec))

    def _load_full(self, directory: RunDirectory, spec: RunSpec) -> PaneModel:
        folder = directory.adapter
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FtlabError(
                f"The weights of run '{directory.run_id}' are not there: its folder adapter/ holds "
                "no .safetensors file; run it again, or choose another."
            )
        source = ResolvedModel(ModelReference("folder", str(folder)), folder)
        try:
            model = load_base_model(source, "bf16", None, self.arithmetic.device)
        except Exception as error:
            raise self._does_not_fit(directory.run_id, error) from error
        return PaneModel(model.requires_grad_(False).eval(), sha256_of(files), _note(spec))

    def _does_not_fit(self, run_id: str, error: Exception) -> FtlabError:
        traceback.print_exc()
        return FtlabError(
            f"The adapter of run '{run_id}' cannot be put on {self._name}: it is damaged or made "
            f"for another shape ({one_line(error)[:160]}); run it again, or choose another."
        )


def clone_on_same_weights(model: Model) -> Model:
    """A second module tree on the very same parameters and buffers; only Python objects are new."""
    memo: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    memo.update({id(buffer): buffer for buffer in model.buffers()})
    return copy.deepcopy(model, memo)


def sha256_of(files: list[Path]) -> str:
    """SHA-256 in hex over the files' content, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _check_every_weight_is_worn(model: PeftModel, weights: Path) -> None:
    """PEFT passes over weights that the model has no place for, without a word."""
    worn = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(weights, framework="pt") as file:
        saved = set(file.keys())
    over = [key for key in saved - worn if not any(name in key for name in _EMBEDDINGS)]
    if over:
        raise FtlabError(f"the model has no place for {len(over)} of its weights, as {over[0]}")


def _note(spec: RunSpec) -> str:
    """What differs between the arithmetic of this pane and that of the run's own evaluation."""
    if spec.base_precision is not None:
        return (
            f"Trained on a base held in {spec.base_precision}; answered here on the 16-bit base, "
            "so the answer may differ from the run's own samples."
        )
    if spec.dtype_policy != "bf16":
        return (
            f"Trained under the dtype policy {spec.dtype_policy}; answered here in bf16, "
            "so the answer may differ from the run's own samples."
        )
    return ""


def _sentence(error: Exception, what: str) -> str:
    if isinstance(error, FtlabError):
        return one_line(error)
    traceback.print_exc()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return f"{what}: out of memory; ask for fewer tokens, or shorten the prompt."
    return f"{what}: {one_line(error)[:200]} (the log has the traceback)."
