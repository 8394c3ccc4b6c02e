"""The models that answer: one base in memory, and each pane's adapter on those same weights.

The base and all panes whose method is plain LoRA arithmetic are rows of one lane; every other pane
is a lane of its own. The lanes take turns token by token.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.devices import CPU, free_bytes, resolve_device
from ftlab.methods.spec import BasePrecision
from ftlab.models.download import DownloadProgress
from ftlab.models.generation import virtual_tokens
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.models.trained_weights import WEIGHTS
from ftlab.playground.answers import Answer
from ftlab.playground.desk import Desk, SendEach
from ftlab.playground.full_models import FullModels
from ftlab.playground.lanes import Lane
from ftlab.playground.notes import note_on
from ftlab.playground.panes import (
    BASE,
    WEIGHTS_FILE,
    LineUp,
    PaneSource,
    line_up,
    same_name,
)
from ftlab.playground.part import put_part
from ftlab.playground.protocol import (
    LOADING,
    WAITING,
    GenerateRequest,
    PaneUpdate,
    Precision,
    Stopped,
)
from ftlab.playground.rows import RowAdapters
from ftlab.playground.turns import Check, LaneOfAnswers, say, shared_lane, take_turns
from ftlab.playground.wearing import LowRank, Marks, Worn, marks, shares_a_batch, wear
from ftlab.runs.spec import DtypePolicy
from ftlab.units import format_part

ADAPTERS_KEPT = 12
"""Adapters and trained parts that stay loaded; each holds only its own weights."""

FULL_MODELS_SHARE = 0.5
"""Of the device's memory, for full fine-tunings with weights of their own."""

Send = Callable[[PaneUpdate], None]


@dataclass(frozen=True)
class Dressed:
    """A pane of one request, dressed. `swap_seconds` is what that took; `None` for the base."""

    place: int
    source: PaneSource
    worn: Worn
    swap_seconds: float | None

    def first_update(self, precision: Precision, more_seconds: float) -> PaneUpdate:
        swap = None if self.swap_seconds is None else self.swap_seconds + more_seconds
        return PaneUpdate(
            self.place,
            "status",
            WAITING,
            swap_seconds=swap,
            note=note_on(self.source, precision),
            adapter_sha256=self.worn.sha256,
        )


class Engine:
    """Answers requests on one device."""

    def __init__(self, runs_folder: Path, device: torch.device) -> None:
        self.runs_folder = runs_folder
        self.device = device
        self._resident: tuple[str, Precision] | None = None
        self._base: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._marks: Marks = {}
        self._adapters: OrderedDict[tuple[str, int], Worn] = OrderedDict()
        self._rows: RowAdapters | None = None
        self.full_models = FullModels(device, self._free_bytes, self._full_limit())

    def answer(self, request: GenerateRequest, send: Send, check: Check) -> None:
        """Answers the prompt in every pane; `send` gets the updates.

        An error of one pane is said in that pane and the others go on. `check` is called between
        tokens, and while a base model is downloaded; it raises `Stopped` to end the whole request.
        """
        self.answer_each(request, [request.prompt], lambda _, update: send(update), check)

    def answer_each(
        self, request: GenerateRequest, prompts: Sequence[str], send: SendEach, check: Check
    ) -> None:
        """Answers several prompts at once; `send` also gets the prompt's place.

        Every pane of every prompt ends with one "done" or "error".
        """

        def tell(place: int, update: PaneUpdate) -> None:
            for prompt in range(len(prompts)):
                send(prompt, replace(update, pane=place))

        def tell_all(update: PaneUpdate) -> None:
            for place in range(len(request.panes)):
                tell(place, update)

        def downloading(done: int, total: int) -> None:
            words = f"Downloading the base model: {format_part(done, total)} …"
            tell_all(PaneUpdate(0, "status", words if done < total else LOADING))
            check()

        try:
            lineup = line_up(request.panes, request.model, self.runs_folder)
            if self._resident != (same_name(lineup.model), request.precision):
                tell_all(PaneUpdate(0, "status", LOADING))
                self.load(lineup.model, request.precision, downloading)
        except Stopped:
            raise
        except Exception as error:
            tell_all(PaneUpdate(0, "error", say(error, "The base model could not be loaded")))
            return
        tell_all(PaneUpdate(0, "status", WAITING))
        for place, problem in lineup.problems.items():
            tell(place, PaneUpdate(0, "error", problem))
        panes = self._dress(lineup, tell)
        if marks(self.base) != self._marks:
            self.unload()
            sentence = (
                "An adapter changed the base's own weights, so nothing here could be trusted; the "
                "base is loaded anew with the next prompt. Leave that adapter out."
            )
            for pane in panes:
                tell(pane.place, PaneUpdate(0, "error", sentence))
            return
        with torch.inference_mode():
            try:
                lanes = self._lanes(request, prompts, panes, send)
            except Exception as error:
                sentence = say(error, "The prompt could not be read")
                for pane in panes:
                    tell(pane.place, PaneUpdate(0, "error", sentence))
                return
            take_turns(lanes, check)

    def load(
        self,
        name: str,
        precision: Precision = "bf16",
        progress: DownloadProgress = lambda done, total: None,
    ) -> None:
        """Makes this the resident base; everything on the one before is let go first."""
        self.unload()
        policy, base_precision = held_in(precision)
        source = resolve_model(name, say=print, progress=progress)
        self._tokenizer = load_tokenizer(source)
        base = load_base_model(source, policy, base_precision, self.device)
        self._base = base.requires_grad_(False).eval()
        self._marks = marks(self._base)
        self._resident = (same_name(name), precision)

    def unload(self) -> None:
        """Lets go of every model."""
        self._resident = self._base = self._tokenizer = self._rows = None
        self._adapters.clear()
        self.full_models.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def base(self) -> PreTrainedModel:
        assert self._base is not None, "load a base first"
        return self._base

    def worn(self, source: PaneSource, in_use: Sequence[str] = ()) -> Worn:
        """What the source answers with, loaded unless it is there already.

        Raises `FtlabError` if its weights are missing, damaged, made for another shape, or too
        large beside the full models of the panes `in_use`.
        """
        assert self._resident is not None
        if source.name == BASE:
            return Worn(LowRank())
        if not (source.is_adapter or source.is_part):
            return self.full_models.get(source, held_in(self._resident[1])[0], in_use)
        key = (source.name, _changed(source))
        if key not in self._adapters:
            dress = put_part if source.is_part else wear
            self._adapters[key] = dress(self.base, source)
            if len(self._adapters) > ADAPTERS_KEPT:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(key)
        return self._adapters[key]

    def _dress(self, lineup: LineUp, tell: Callable[[int, PaneUpdate], None]) -> list[Dressed]:
        """The panes that can answer; what is wrong with the others is said in them."""
        in_use = [source.name for source in lineup.sources.values()]
        panes = []
        for place, source in lineup.sources.items():
            began = time.perf_counter()
            try:
                worn = self.worn(source, in_use)
            except Exception as error:
                sentence = say(error, "This pane could not answer")
                tell(place, PaneUpdate(0, "error", sentence))
                continue
            swap = None if source.name == BASE else time.perf_counter() - began
            panes.append(Dressed(place, source, worn, swap))
        return panes

    def _lanes(
        self,
        request: GenerateRequest,
        prompts: Sequence[str],
        panes: Sequence[Dressed],
        send: SendEach,
    ) -> list[LaneOfAnswers]:
        """The lane of rows that share the base first, then one for every other pane."""
        assert self._tokenizer is not None
        together = shares_a_batch(self.base)
        rows, build_seconds = self._row_adapters([pane.worn for pane in panes])
        desk = Desk(self.base, self._tokenizer, request, prompts, send)
        base_logits = desk.base_logits()
        shared: list[tuple[LowRank, Answer]] = []
        own: list[LaneOfAnswers] = []
        for pane in panes:
            low_rank = pane.worn.low_rank if together else None
            draft = pane.first_update(request.precision, build_seconds if low_rank else 0.0)
            model = pane.worn.model or self.base
            answers = desk.answers(draft, virtual_tokens(model))
            if low_rank is not None:
                shared += [(low_rank, answer) for answer in answers]
            elif answers:
                lane = Lane(model, [answer.prompt_ids for answer in answers], desk.pad_id)
                beside = None if pane.source.name == BASE else base_logits
                own.append(LaneOfAnswers(lane, answers, base_logits=beside))
        if not shared:
            return own
        worn, answers = [low_rank for low_rank, _ in shared], [answer for _, answer in shared]
        return [shared_lane(rows, worn, answers, desk.pad_id), *own]

    def _row_adapters(self, worn: Sequence[Worn]) -> tuple[RowAdapters, float]:
        """What carries these as rows, kept while it fits, and the seconds that it took to make."""
        began = time.perf_counter()
        wanted = list(
            {id(w.low_rank): w.low_rank for w in worn if w.low_rank and w.low_rank.layers}.values()
        )
        if self._rows is None or not _are_the_same(self._rows.adapters, wanted):
            self._rows = None  # before the next is made, so that two never lie in memory
            self._rows = RowAdapters(self.base, wanted)
        return self._rows, time.perf_counter() - began

    def _free_bytes(self) -> int | None:
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return int(torch.cuda.mem_get_info()[0]) + kept
        return free_bytes(resolve_device(CPU))

    def _full_limit(self) -> int:
        if self.device.type == "cuda":
            return int(FULL_MODELS_SHARE * torch.cuda.mem_get_info()[1])
        return int(FULL_MODELS_SHARE * resolve_device(CPU).memory_bytes)


def held_in(precision: Precision) -> tuple[DtypePolicy, BasePrecision | None]:
    """The dtype policy and the base precision under which the base is loaded."""
    if precision == "nf4":
        return "bf16", "nf4"
    return precision, None


def _changed(source: PaneSource) -> int:
    """When the weights file was written: another file under the same name is another adapter."""
    assert source.folder is not None
    try:
        name = WEIGHTS if source.is_part else WEIGHTS_FILE
        return (source.folder / name).stat().st_mtime_ns
    except OSError:
        return 0  # said when it is loaded


def _are_the_same(held: Sequence[LowRank], wanted: Sequence[LowRank]) -> bool:
    return len(held) == len(wanted) and all(a is b for a, b in zip(held, wanted, strict=True))
