"""The models that answer: one base in memory, and each pane's adapter on those same weights.

The base and all panes whose method is plain LoRA arithmetic are rows of one lane; every other pane
is a lane of its own. The lanes take turns token by token.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.devices import CPU, free_bytes, resolve_device
from ftlab.errors import FtlabError, one_line
from ftlab.methods.spec import BasePrecision
from ftlab.models.download import DownloadProgress
from ftlab.models.generation import virtual_tokens
from ftlab.models.loading import give_back_memory, load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.models.trained_weights import WEIGHTS
from ftlab.playground.answering import Answering
from ftlab.playground.answers import Answer
from ftlab.playground.desk import Desk, SendEach
from ftlab.playground.full_models import FullModels
from ftlab.playground.giving_way import Check, GiveWay
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
from ftlab.playground.turns import LaneOfAnswers, read_again, say, shared_lane, take_turns
from ftlab.playground.wearing import LowRank, Marks, Worn, marks, shares_a_batch, wear
from ftlab.settings.training import DtypePolicy
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
        Where it wants the device's memory, every model is let go first, and loaded again for the
        answers to go on.
        """
        self.answer_each(request, [request.prompt], lambda _, update: send(update), check)

    def answer_each(
        self, request: GenerateRequest, prompts: Sequence[str], send: SendEach, check: Check
    ) -> None:
        """Answers several prompts at once; `send` also gets the prompt's place.

        Every pane of every prompt ends with one "done" or "error".
        """
        job = Answering(request, prompts, send)

        def downloading(done: int, total: int) -> None:
            words = f"Downloading the base model: {format_part(done, total)} …"
            job.say(words if done < total else LOADING)
            give_way = check()
            if callable(give_way):  # nothing of this request lies on the device yet
                give_way()

        try:
            lineup = line_up(request.panes, request.model, self.runs_folder)
            if self._resident != (same_name(lineup.model), request.precision):
                job.say(LOADING)
                self.load(lineup.model, request.precision, downloading)
        except Stopped:
            raise
        except Exception as error:
            job.fail_all(say(error, "The base model could not be loaded"))
            return
        job.say(WAITING)
        for place, problem in lineup.problems.items():
            job.fail(place, problem)
        give_way = self._answer_on(job, lineup, check)
        while give_way is not None:
            job.interrupt()
            self.unload()
            give_way()
            job.come_back()
            if not self._loaded_again(job, lineup.model):
                return
            give_way = self._answer_on(job, lineup, check)

    def _answer_on(self, job: Answering, lineup: LineUp, check: Check) -> GiveWay | None:
        """Answers to the end, or until the device is wanted.

        What lies on the device is held by this frame and by `unload`'s models: once both are gone
        the memory is free.
        """
        panes = self._dress(job, lineup)
        if marks(self.base) != self._marks:
            panes.clear()
            self.unload()
            job.fail_all(
                "An adapter changed the base's own weights, so nothing here could be trusted; the "
                "base is loaded anew with the next prompt. Leave that adapter out."
            )
            return None

        def check_unless_kept() -> float | GiveWay | None:
            found = check()
            return None if callable(found) and time.perf_counter() < job.kept_until else found

        with torch.inference_mode():
            try:
                lanes = self._lanes(job, panes)
            except Exception as error:
                job.fail_all(say(error, "The prompt could not be read"))
                return None
            lanes = read_again(lanes)
            job.go_on()
            return take_turns(lanes, check_unless_kept)

    def _loaded_again(self, job: Answering, model: str) -> bool:
        """Whether the base is there again after an interruption; if not, the panes say why."""
        try:
            self.load(model, job.request.precision)
        except Exception as error:
            what = "After other work on the device the base model could not be loaded again"
            if isinstance(error, FtlabError):
                reason = f"{what}: {one_line(error)}"
            else:
                reason = say(error, what, "send the prompt again once its memory is free")
        else:
            return True
        self.unload()  # of what had been loaded already
        job.fail_all(reason)
        return False

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
        give_back_memory(self.device)

    @property
    def device_answers(self) -> bool:
        """Whether the device still computes; after a failed kernel not for this process."""
        if self.device.type == "cpu":
            return True
        try:
            getattr(torch, self.device.type).synchronize()
        except RuntimeError:
            return False
        return True

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

    def _dress(self, job: Answering, lineup: LineUp) -> list[Dressed]:
        """The panes that can answer; what is wrong with the others is said in them."""
        sources = {place: lineup.sources[place] for place in job.open_places}
        in_use = [source.name for source in sources.values()]
        panes = []
        for place, source in sources.items():
            began = time.perf_counter()
            try:
                worn = self.worn(source, in_use)
                job.check_same(place, source, worn.sha256)
            except Exception as error:
                job.fail(place, say(error, "This pane could not answer"))
                continue
            swap = None if source.name == BASE else time.perf_counter() - began
            panes.append(Dressed(place, source, worn, swap))
        return panes

    def _lanes(self, job: Answering, panes: Sequence[Dressed]) -> list[LaneOfAnswers]:
        """The lane of rows that share the base first, then one for every other pane."""
        assert self._tokenizer is not None
        together = shares_a_batch(self.base)
        rows, build_seconds = self._row_adapters([pane.worn for pane in panes])
        desk = Desk(self.base, self._tokenizer, job.request, job.prompts, job.send)
        base_logits = desk.base_logits()
        shared: list[tuple[LowRank, Answer]] = []
        own: list[LaneOfAnswers] = []
        for pane in panes:
            low_rank = pane.worn.low_rank if together else None
            model = pane.worn.model or self.base
            if pane.place not in job.answers:
                draft = pane.first_update(job.request.precision, build_seconds if low_rank else 0.0)
                job.answers[pane.place] = desk.answers(draft, virtual_tokens(model))
            answers = job.unfinished(pane.place)
            if low_rank is not None:
                shared += [(low_rank, answer) for answer in answers]
            elif answers:
                lane = Lane(model, [answer.read for answer in answers], desk.pad_id)
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
