"""The engine: holds one base model in memory, attaches each pane's adapter to it, and answers.

The base and all panes with a plain LoRA are rows of one batch, called a lane. Every other pane has
its own lane. The lanes take turns token by token.
"""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.basics.devices import CPU, free_bytes, resolve_device
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.units import format_bytes, format_part
from ftlab.methods.spec import BasePrecision
from ftlab.models.download import DownloadProgress
from ftlab.models.generation import virtual_tokens
from ftlab.models.laid_out import free_layout, lay_out
from ftlab.models.loading import (
    WEIGHTS,
    give_back_memory,
    load_base_model,
    load_tokenizer,
    weight_dtype,
)
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel, resolve_model
from ftlab.playground.attach import (
    Attached,
    LowRank,
    Marks,
    attach,
    marks,
    put_part,
    sha256_of,
    shares_a_batch,
)
from ftlab.playground.decoding import (
    Answer,
    AnswerBuilder,
    Lane,
    LaneOfAnswers,
    SendEach,
    read_again,
    say,
    shared_lane,
    take_turns,
)
from ftlab.playground.giving_way import Check, YieldDevice
from ftlab.playground.panes import BASE, WEIGHTS_FILE, LineUp, PaneSource, line_up, same_name
from ftlab.playground.requests import (
    LOADING,
    WAITING,
    GenerateRequest,
    PaneUpdate,
    Stopped,
    note_on,
)
from ftlab.playground.rows import RowAdapters
from ftlab.settings.generation import Precision
from ftlab.settings.training import DtypePolicy

SPARE_BYTES = 256 << 20
"""Memory that must stay free besides a model: for its key-value cache and other programs."""

FreeBytes = Callable[[], int | None]


class LoadedSources:
    """A cache of what panes attach, by key; evicts the least recently used.

    `free_bytes` returns the device's free memory; `limit` is the limit for all of them together,
    but one alone may take more. `let_go` is called before one is evicted: what else holds it must
    go first. `make_free` frees what is not needed and says whether there was any; that is tried
    before. `kind` names one of them, `advice` is the way out where there is no memory, and
    `spare_bytes` must stay free besides one that is loaded.
    """

    kind = ""
    advice = ""
    spare_bytes = 0

    def __init__(
        self,
        device: torch.device,
        free_bytes: FreeBytes,
        limit: int,
        let_go: Callable[[], None] = lambda: None,
        make_free: Callable[[], bool] = lambda: False,
    ) -> None:
        self._device = device
        self._free_bytes = free_bytes
        self._limit = limit
        self._let_go = let_go
        self._make_free = make_free
        self._held: OrderedDict[tuple[str, int], tuple[Attached, int]] = OrderedDict()

    def clear(self) -> None:
        self._held.clear()

    @property
    def names(self) -> list[str]:
        """The names of the loaded sources, least recently used first."""
        return [name for name, _ in self._held]

    def _get(
        self,
        source: PaneSource,
        version: int,
        size: int,
        in_use: Collection[str],
        load: Callable[[], Attached],
    ) -> Attached:
        """Returns the source, loaded if needed, which takes `size` bytes; those `in_use` stay.

        Raises `FtlabError` if there is not enough memory, and what `load` raises.
        """
        key = source.name, version
        if key not in self._held:
            self._held = OrderedDict(  # an earlier file of that name is another source
                (known, held) for known, held in self._held.items() if known[0] != source.name
            )
            self._make_room(source, size, in_use)
            self._held[key] = load(), size
        self._held.move_to_end(key)
        return self._held[key][0]

    def _make_room(self, source: PaneSource, size: int, in_use: Collection[str]) -> None:
        while True:
            free = self._free_bytes()
            held = sum(bytes_ for _, bytes_ in self._held.values())
            within = not self._held or held + size <= self._limit
            if within and (free is None or size + self.spare_bytes <= free):
                return
            if within and self._make_free():
                give_back_memory(self._device)
                continue
            idle = [key for key in self._held if key[0] not in in_use]
            if not idle:
                left = "" if free is None else f", {format_bytes(free)} is free"
                raise FtlabError(
                    f"There is no memory for another {self.kind}: '{source.label}' needs "
                    f"{format_bytes(size)}{left}, and {len(self._held)} of this prompt use "
                    f"{format_bytes(held)} of the {format_bytes(self._limit)} reserved for "
                    f"{self.kind}s; {self.advice}."
                )
            self._let_go()
            del self._held[idle[0]]
            give_back_memory(self._device)


class FullModels(LoadedSources):
    """Full fine-tunings, each with weights of its own."""

    kind = "full model"
    advice = "choose fewer full fine-tunings, or 16 bits"
    spare_bytes = SPARE_BYTES

    def get(self, source: PaneSource, policy: DtypePolicy, in_use: Collection[str]) -> Attached:
        """Returns the source's model, loaded if needed; models of `in_use` are not evicted.

        Raises `FtlabError` if its weights are missing or damaged, or there is not enough memory.
        """
        assert source.folder is not None
        files = sorted(source.folder.glob("*.safetensors"))
        wide = weight_dtype(policy, self._device, weights_learn=False) is torch.float32
        size = sum(file.stat().st_size for file in files) * (2 if wide else 1)
        return self._get(source, 0, size, in_use, lambda: self._load(source, policy, files))

    def _load(self, source: PaneSource, policy: DtypePolicy, files: list[Path]) -> Attached:
        assert source.folder is not None
        if not files:
            raise FtlabError(
                f"The weights of '{source.label}' cannot be found: its folder has no .safetensors "
                "file; run it again, or choose another."
            )
        resolved = ResolvedModel(ModelReference("folder", str(source.folder)), source.folder)
        try:
            model: PreTrainedModel = load_base_model(resolved, policy, None, self._device)
        except Exception as error:
            traceback.print_exc()
            raise FtlabError(
                f"The weights of '{source.label}' cannot be loaded: they are damaged or made for "
                f"another shape ({one_line(error)[:160]}); run it again, or choose another."
            ) from error
        return Attached(None, model.requires_grad_(False).eval(), sha256_of(files))


class Adapters(LoadedSources):
    """Adapters and trained parts of the base: each holds only its own weights."""

    kind = "adapter"
    advice = "choose fewer adapters"

    def get(self, base: PreTrainedModel, source: PaneSource, in_use: Collection[str]) -> Attached:
        """Returns the source attached to the base; a file that was replaced is loaded again.

        Raises `FtlabError` if its weights are missing, damaged, made for another shape, or too
        large besides those of `in_use`.
        """
        version, size = _weights_file(source)
        wide = source.is_part and base.dtype is torch.float32  # the file is in 16 bits
        size = size * (2 if wide else 1) + _OBJECTS_BYTES
        put = put_part if source.is_part else attach
        return self._get(source, version, size, in_use, lambda: put(base, source))


LOADING_AGAIN = "Loading the base model again …"

KEPT_FOR_LOADING = 1.0
"""How long the device is kept after an interruption, relative to the reload time. Without this
minimum, two prompts that wait for each other would reload alternately and never generate."""


@dataclass
class Answering:
    """The answers of a request by pane index, created when the pane's adapter is first attached.

    During an interruption they keep tokens, random generators and `NextToken` results; models,
    caches and logits are recreated. A pane that cannot answer at all has an empty list.
    """

    request: GenerateRequest
    prompts: Sequence[str]
    send: SendEach
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    kept_until: float = 0.0
    _interrupted: float | None = None
    _back: float = 0.0

    @property
    def open_places(self) -> list[int]:
        """The indices of panes whose answer has not ended, started or not."""
        places = range(len(self.request.panes))
        return [p for p in places if p not in self.answers or self.unfinished(p)]

    def unfinished(self, place: int) -> list[Answer]:
        return [answer for answer in self.answers[place] if not answer.has_ended]

    def say(self, sentence: str) -> None:
        """Sends a status to every open pane."""
        for place in self.open_places:
            for answer in self.unfinished(place) if place in self.answers else ():
                answer.say(sentence)
            if place not in self.answers:
                self._tell(PaneUpdate(place, "status", sentence))

    def fail(self, place: int, sentence: str) -> None:
        """Ends a pane's open answers with an error; the text so far is kept."""
        if place not in self.answers:
            self._tell(PaneUpdate(place, "error", sentence))
            self.answers[place] = []
        for answer in self.unfinished(place):
            answer.fail(sentence)

    def fail_all(self, sentence: str) -> None:
        for place in self.open_places:
            self.fail(place, sentence)

    def check_same(self, place: int, source: PaneSource, sha256: str) -> None:
        """Raises `FtlabError` if the source's weights changed since the answer started."""
        answers = self.answers.get(place)
        if answers and answers[0].draft.adapter_sha256 != sha256:
            raise FtlabError(
                f"The weights of '{source.label}' were replaced while the prompt waited; send the "
                "prompt again."
            )

    def interrupt(self) -> None:
        """Stops counting time, until `go_on`."""
        self._interrupted = time.perf_counter()

    def come_back(self) -> None:
        """Marks that the request has the device again and that the models will be reloaded."""
        self._back = time.perf_counter()
        self.say(LOADING_AGAIN)

    def go_on(self) -> None:
        """Ends an interruption: excludes its time, loading included, from the answers' times."""
        if self._interrupted is None:
            return
        now = time.perf_counter()
        for place in self.open_places:
            for answer in self.unfinished(place):
                answer.shift(now - self._interrupted)
        self.kept_until = now + KEPT_FOR_LOADING * (now - self._back)
        self._interrupted = None
        self.say(WAITING)

    def _tell(self, update: PaneUpdate) -> None:
        for prompt in range(len(self.prompts)):
            self.send(prompt, update)


BASE_WAS_CHANGED = (
    "An adapter changed the base's own weights, so nothing here could be trusted; the base is "
    "loaded anew with the next prompt. Leave that adapter out."
)

_OBJECTS_BYTES = 2 << 20
"""About what the Python objects of a clone of the base take, and of an adapter's matrices."""

ADAPTERS_SHARE = 0.25
"""Maximum share of the device memory for adapters, as large as their files: dozens of them."""

FULL_MODELS_SHARE = 0.5
"""Maximum share of the device memory for full fine-tunings, which have their own weights."""

LAID_OUT_SHARE = 0.25
"""Maximum share of a CPU's free memory for the base's weights in a faster layout, beside those that
it has."""

Send = Callable[[PaneUpdate], None]


@dataclass(frozen=True)
class LoadedPane:
    """A pane of one request with its source attached, in `swap_seconds` (`None`: the base)."""

    place: int
    source: PaneSource
    attached: Attached
    swap_seconds: float | None


class Engine:
    """Answers requests on one device."""

    def __init__(self, runs_folder: Path, device: torch.device) -> None:
        self.runs_folder = runs_folder
        self.device = device
        self._resident: tuple[str, Precision] | None = None
        self._base: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._marks: Marks = {}
        free = partial(free_on, device)
        self.adapters = Adapters(
            device, free, self._share(ADAPTERS_SHARE), self._drop_rows, self._free_layout
        )
        self._rows: RowAdapters | None = None
        self.full_models = FullModels(
            device, free, self._share(FULL_MODELS_SHARE), make_free=self._free_layout
        )

    def answer(self, request: GenerateRequest, send: Send, check: Check) -> None:
        """Answers the prompt in every pane; `send` receives the updates.

        An error of one pane is reported in that pane; the others continue. `check` is called
        between tokens and during a download. It raises `Stopped` to end the whole request. If it
        requests the device memory, all models are unloaded, and reloaded afterwards to continue.
        """
        self.answer_each(request, [request.prompt], lambda _, update: send(update), check)

    def answer_each(
        self, request: GenerateRequest, prompts: Sequence[str], send: SendEach, check: Check
    ) -> None:
        """Answers several prompts at once; `send` also receives the prompt's index.

        Every pane of every prompt ends with one "done" or "error".
        """
        job = Answering(request, prompts, send)

        def downloading(done: int, total: int) -> None:
            words = f"Downloading the base model: {format_part(done, total)} …"
            job.say(words if done < total else LOADING)
            yield_device = check()
            if callable(yield_device):  # this request uses no device memory yet
                yield_device()

        try:
            lineup = line_up(request.panes, request.model, self.runs_folder)
            if not self.holds((same_name(lineup.model), request.precision)):
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
        while (yield_device := self._answer_on(job, lineup, check)) is not None:
            job.interrupt()
            self.unload()
            yield_device()
            job.come_back()
            if not self._loaded_again(job, lineup.model):
                return

    def _answer_on(self, job: Answering, lineup: LineUp, check: Check) -> YieldDevice | None:
        """Answers to the end, or until another process wants the device and its memory.

        Only this frame and the models that `unload` drops hold device memory: after both are gone,
        the memory is free.
        """
        panes = self._attach(job, lineup)
        if marks(self.base) != self._marks:
            panes.clear()
            self.unload()
            job.fail_all(BASE_WAS_CHANGED)
            return None

        def check_unless_kept() -> float | YieldDevice | None:
            found = check()
            return None if callable(found) and time.perf_counter() < job.kept_until else found

        with torch.inference_mode():
            try:
                lanes = read_again(self._lanes(job, panes))
            except Exception as error:
                job.fail_all(say(error, "The prompt could not be read"))
                return None
            job.go_on()
            return take_turns(lanes, check_unless_kept)

    def _loaded_again(self, job: Answering, model: str) -> bool:
        """Reloads the base after an interruption; if that fails, reports it and returns `False`."""
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
        self.unload()  # frees a partly loaded model
        job.fail_all(reason)
        return False

    def holds(self, base: tuple[str, Precision]) -> bool:
        """Whether the base of that name (in the form of `same_name`) and precision is loaded."""
        return self._resident == base

    def load(
        self,
        name: str,
        precision: Precision = "bf16",
        progress: DownloadProgress = lambda done, total: None,
    ) -> None:
        """Loads this base model; frees the previous one and all that is attached to it first."""
        self.unload()
        policy, base_precision = held_in(precision)
        source = resolve_model(name, say=print, progress=progress)
        self._tokenizer = load_tokenizer(source)
        base = load_base_model(source, policy, base_precision, self.device)
        self._base = base.requires_grad_(False).eval()
        self._lay_out(self._base)
        self._marks = marks(self._base)
        self._resident = (same_name(name), precision)

    def _lay_out(self, base: PreTrainedModel) -> None:
        """Makes answers on a CPU faster: in bf16 they stay the same, in fp32 within rounding."""
        free = free_on(self.device)
        if self.device.type == "cpu" and free is not None:
            lay_out(base, int(LAID_OUT_SHARE * max(0, free - SPARE_BYTES)))

    def _free_layout(self) -> bool:
        return self._base is not None and free_layout(self._base)

    def unload(self) -> None:
        """Frees all models."""
        self._resident = self._base = self._tokenizer = self._rows = None
        self.adapters.clear()
        self.full_models.clear()
        give_back_memory(self.device)

    @property
    def device_answers(self) -> bool:
        """Whether the device still works; after a failed kernel it does not in this process."""
        if self.device.type == "cpu":
            return True
        try:
            getattr(torch, self.device.type).synchronize()
        except RuntimeError:
            return False
        return True

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        assert self._tokenizer is not None, "load a base first"
        return self._tokenizer

    @property
    def base(self) -> PreTrainedModel:
        assert self._base is not None, "load a base first"
        return self._base

    def attached(self, source: PaneSource, in_use: Sequence[str] = ()) -> Attached:
        """Returns the source's model or adapter, attached to the base; cached.

        Raises `FtlabError` if its weights are missing, damaged, made for another shape, or too
        large in addition to the full models of the panes `in_use`.
        """
        assert self._resident is not None
        if source.name == BASE:
            return Attached(LowRank())
        if not (source.is_adapter or source.is_part):
            return self.full_models.get(source, held_in(self._resident[1])[0], in_use)
        return self.adapters.get(self.base, source, in_use)

    def _attach(self, job: Answering, lineup: LineUp) -> list[LoadedPane]:
        """Attaches the sources; returns the panes that can answer, reports errors in the others."""
        sources = {place: lineup.sources[place] for place in job.open_places}
        in_use = [source.name for source in sources.values()]
        panes = []
        for place, source in sources.items():
            began = time.perf_counter()
            try:
                attached = self.attached(source, in_use)
                job.check_same(place, source, attached.sha256)
            except Exception as error:
                job.fail(place, say(error, "This pane could not answer"))
                continue
            swap = None if source.name == BASE else time.perf_counter() - began
            panes.append(LoadedPane(place, source, attached, swap))
        return panes

    def _lanes(self, job: Answering, panes: Sequence[LoadedPane]) -> list[LaneOfAnswers]:
        """The shared lane of all rows on the base, followed by one lane for every other pane."""
        assert self._tokenizer is not None
        together = shares_a_batch(self.base)
        rows, build_seconds = self.row_adapters([pane.attached for pane in panes])
        builder = AnswerBuilder(self.base, self._tokenizer, job.request, job.prompts, job.send)
        base_logits = builder.base_logits()
        shared: list[tuple[LowRank, Answer]] = []
        own: list[LaneOfAnswers] = []
        for pane in panes:
            low_rank = pane.attached.low_rank if together else None
            model = pane.attached.model or self.base
            if pane.place not in job.answers:
                swap = pane.swap_seconds
                if swap is not None and low_rank:
                    swap += build_seconds
                first = PaneUpdate(
                    pane.place,
                    "status",
                    WAITING,
                    swap_seconds=swap,
                    note=note_on(pane.source, job.request.precision),
                    adapter_sha256=pane.attached.sha256,
                )
                job.answers[pane.place] = builder.answers(first, virtual_tokens(model))
            answers = job.unfinished(pane.place)
            if low_rank is not None:
                shared += [(low_rank, answer) for answer in answers]
            elif answers:
                lane = Lane(model, [answer.read for answer in answers], builder.pad_id)
                beside = None if pane.source.name == BASE else base_logits
                own.append(LaneOfAnswers(lane, answers, base_logits=beside))
        if not shared:
            return own
        adapters, answers_ = zip(*shared, strict=True)
        return [shared_lane(rows, adapters, answers_, builder.pad_id), *own]

    def row_adapters(self, attached: Sequence[Attached]) -> tuple[RowAdapters, float]:
        """`RowAdapters` for these adapters, reused if the same, and the seconds to create it."""
        began = time.perf_counter()
        plain = [one.low_rank for one in attached if one.low_rank and one.low_rank.layers]
        wanted = list({id(low_rank): low_rank for low_rank in plain}.values())
        if self._rows is None or list(map(id, self._rows.adapters)) != list(map(id, wanted)):
            self._rows = None  # freed first, so that memory never holds two
            self._rows = RowAdapters(self.base, wanted)
        return self._rows, time.perf_counter() - began

    def check_base(self) -> None:
        """Raises `FtlabError`, and unloads all, if a weight of the base was moved or written."""
        if marks(self.base) != self._marks:
            self.unload()
            raise FtlabError(BASE_WAS_CHANGED)

    def _drop_rows(self) -> None:
        """They hold the adapters of the last request; the next one makes its own."""
        self._rows = None

    def _share(self, share: float) -> int:
        """That share of the device's memory, in bytes."""
        if self.device.type == "cuda":
            return int(share * torch.cuda.mem_get_info()[1])
        return int(share * resolve_device(CPU).memory_bytes)


def free_on(device: torch.device) -> int | None:
    """Bytes free on the device, with those that torch holds unused; `None` if unknown."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept
    return free_bytes(resolve_device(CPU))


def held_in(precision: Precision) -> tuple[DtypePolicy, BasePrecision | None]:
    """The dtype policy and the base precision for loading the base."""
    return ("bf16", "nf4") if precision == "nf4" else (precision, None)


def _weights_file(source: PaneSource) -> tuple[int, int]:
    """The weights file's modification time, since a replaced file is another source, and its size;
    (0, 0) if it cannot be read: loading reports the error."""
    assert source.folder is not None
    try:
        found = (source.folder / (WEIGHTS if source.is_part else WEIGHTS_FILE)).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
