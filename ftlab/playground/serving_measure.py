"""Measures how many adapters one base serves, beside as many full models: memory and speed.

Copies of the adapter are read from its file one by one, and each has weights of its own, as those
of different customers have.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ftlab.basics.devices import CPU, Device, cpu_count
from ftlab.basics.words import plural
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.reference import parse_model
from ftlab.models.resolve import resolve_model
from ftlab.playground.attach import Attached, attach
from ftlab.playground.decoding import Lane
from ftlab.playground.engine import SPARE_BYTES, free_on, held_in
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import PaneSource
from ftlab.playground.rows import RowAdapters
from ftlab.playground.serving import ServingRequest
from ftlab.records.serving import ServingPoint, ServingRecord
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.spec import Message
from ftlab.training.failures import is_out_of_memory
from ftlab.training.machine import device_name
from ftlab.training.meters import memory_meter
from ftlab.training.model import shipped_bytes

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_PROBED = 16
"""Adapters of the last probe: from it, and one with a single adapter, all counts are predicted."""

_TASK = TaskReference("bundled", "sql")

Say = Callable[[dict[str, Any]], None]
Model = PreTrainedModel | PeftModel | RowAdapters
Result = TypeVar("Result")


@dataclass
class _Speed:
    """Seconds of what was timed last: the answers of one adapter, of `rows` and of a full model,
    and loading an adapter and a model. What is left is predicted from these."""

    one: float
    rows: int
    together: float
    full: float
    attach: float
    load: float

    def answers(self, count: int) -> float:
        """Seconds of the answers of `count` adapters, on a line through one and `rows`."""
        if self.rows == 1:
            return self.one * count
        slope = (self.together - self.one) / (self.rows - 1)
        return self.one + max(0.0, slope) * (count - 1)

    def learn(self, count: int, seconds: float, is_batch: bool) -> None:
        """Takes what the answers of so many adapters took, as rows of one batch or in turns."""
        if count > 1 and is_batch:
            self.rows, self.together = count, seconds
        else:
            self.one = seconds / count


class Measurement:
    """Measures one adapter on its base; all of it in this process, on one device."""

    def __init__(
        self, request: ServingRequest, source: PaneSource, model: str, device: Device, say: Say
    ) -> None:
        torch.set_num_threads(cpu_count())
        self._request, self._source, self._say = request, source, say
        self._model = model
        self._device = torch.device("cuda:0" if device.is_cuda else CPU)
        self._resolved = resolve_model(model, say=print)
        self._policy, self._base_precision = held_in(request.precision)
        tokenizer = load_tokenizer(self._resolved)
        self._pad_id = int(tokenizer.pad_token_id)
        self._prompt = _prompt_ids(tokenizer, source.task or _TASK)
        self._meter = memory_meter(self._device)
        files = sum(path.stat().st_size for path in self._resolved.folder.glob("*.safetensors"))
        self._size = files * (2 if request.precision == "fp32" else 1)  # until one was measured
        self._bare = 0  # read once kernels and libraries are loaded
        self._base: Any = None

    def run(self) -> ServingRecord:
        with torch.inference_mode():
            self._speed = self._probe()
            self._tell("the base is loaded", self._request.counts, self._whole())
            adapters = self._adapters()
            self._base = None
            self._bare = self._meter.start() or 0  # what the adapters leave is not the models'
            full_models, stopped = self._full_models() if self._request.full_models else ([], "")
        source = self._source
        return ServingRecord(
            model=parse_model(self._model).name,
            precision=self._request.precision,
            label=source.label,
            method=source.method,
            file_bytes=shipped_bytes(source.files[0].parent),
            new_tokens=self._request.new_tokens,
            adapters=tuple(adapters),
            full_models=tuple(full_models),
            stopped=stopped,
            made_at=time.time(),
            environment={
                "device": device_name(self._device),
                "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            },
        )

    def _probe(self) -> _Speed:
        """Loads the base, and times the parts of all that follows."""
        self._base = self._load_base()
        self._answer_once(self._answering([self._attach()]))  # loads kernels
        self._base = None
        self._bare = self._meter.start() or 0
        loading, self._base = self._timed(self._load_base)
        attaching, first = self._timed(self._attach)
        rows = min(_PROBED, self._request.counts[-1]) if first.low_rank else 1
        return _Speed(
            one=self._probed([first]),
            rows=rows,
            together=self._probed([first] * rows) if rows > 1 else 0.0,
            full=self._probed([Attached(None, self._base)]),
            attach=attaching,
            load=loading,
        )

    def _load_base(self) -> PreTrainedModel:
        model = load_base_model(self._resolved, self._policy, self._base_precision, self._device)
        return model.requires_grad_(False).eval()

    def _probed(self, attached: Sequence[Attached]) -> float:
        """The lower of two times: the first may have met other work on the machine."""
        models = self._answering(attached)
        return min(self._answer_once(models) for _ in range(2))

    def _whole(self) -> tuple[int, ...]:
        """The counts of full models that fit, as far as is known."""
        counts = self._request.counts if self._request.full_models else ()
        return tuple(count for count in counts if self._may_fit(count))

    def _left(self, adapters: Sequence[int], whole: Sequence[int], loaded: int) -> float:
        """Seconds of what is left: these counts of both kinds, of which `loaded` are loaded."""
        speed = self._speed
        seconds = sum(speed.answers(count) for count in adapters)
        seconds += sum(speed.full * count for count in whole)
        here = loaded if adapters else 0
        seconds += speed.attach * max(0, max(adapters, default=0) - here)
        here = 0 if adapters else loaded
        return seconds + speed.load * max(0, max(whole, default=0) - here)

    def _adapters(self) -> list[ServingPoint]:
        points: list[ServingPoint] = []
        attached: list[Attached] = []
        loading, counts = 0.0, self._request.counts
        for place, count in enumerate(counts):
            for _ in range(len(attached), count):
                seconds, one = self._timed(self._attach)
                attached.append(one)
                loading += seconds
            swap, models = self._timed(partial(self._answering, attached))
            point = self._point(count, loading, swap, models)
            points.append(point)
            self._speed.attach = loading / count
            self._speed.learn(count, point.answer_seconds, is_batch=len(models) == 1)
            left = counts[place + 1 :]
            self._tell(f"{count} of {counts[-1]} adapters", left, self._whole(), count)
        return points

    def _full_models(self) -> tuple[list[ServingPoint], str]:
        """As many as memory holds, each with weights of its own, and why no more."""
        points: list[ServingPoint] = []
        models: list[Attached] = []
        loading, counts = 0.0, self._request.counts
        for place, count in enumerate(counts):
            try:
                while len(models) < count:
                    if not self._may_fit(1):
                        return points, _no_more(len(models))
                    seconds, model = self._timed(self._own_model)
                    models.append(Attached(None, model))
                    loading += seconds
                point = self._point(count, loading, 0.0, self._answering(models))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return points, _no_more(len(models))
            points.append(point)
            self._size = (point.memory_bytes or 0) // count or self._size
            self._speed.load, self._speed.full = loading / count, point.answer_seconds / count
            left = [more for more in counts[place + 1 :] if self._may_fit(more - count)]
            self._tell(f"{count} of {counts[-1]} full models", (), left, count)
        return points, ""

    def _own_model(self) -> PreTrainedModel:
        """A full model whose weights are its own, as of another file: not mapped from one."""
        # In 16 bits where the base is in 4, as the playground holds full fine-tunings.
        model = load_base_model(self._resolved, self._policy, None, self._device)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model.requires_grad_(False).eval()

    def _attach(self) -> Attached:
        return attach(self._base, self._source)

    def _answering(self, attached: Sequence[Attached]) -> list[tuple[Model, int]]:
        """The models that answer, and with how many rows: one for all plain LoRA adapters."""
        plain = [one.low_rank for one in attached if one.low_rank is not None]
        models: list[tuple[Model, int]] = [(one.model, 1) for one in attached if one.model]
        return [(RowAdapters(self._base, plain), len(plain)), *models] if plain else models

    def _point(
        self, count: int, load: float, swap: float, models: list[tuple[Model, int]]
    ) -> ServingPoint:
        """Memory is read after the answers: weights that were not used yet are not in memory."""
        seconds = self._answer_once(models)
        now = self._meter.start()
        memory = None if now is None else max(0, now - self._bare)
        return ServingPoint(count, memory, round(load, 3), round(swap, 3), round(seconds, 3))

    def _answer_once(self, models: Sequence[tuple[Model, int]]) -> float:
        """Seconds in which all models read their prompts and write their tokens, taking turns."""
        began = time.perf_counter()
        lanes = []
        for model, rows in models:
            if isinstance(model, RowAdapters):
                model.rows = range(1, rows + 1)
            lanes.append(Lane(model, [self._prompt] * rows, self._pad_id))
        chosen = [lane.prefill().argmax(-1).tolist() for lane in lanes]
        for _ in range(self._request.new_tokens - 1):
            chosen = [
                lane.step(tokens).argmax(-1).tolist()
                for lane, tokens in zip(lanes, chosen, strict=True)
            ]
        return time.perf_counter() - began

    def _timed(self, work: Callable[[], Result]) -> tuple[float, Result]:
        """The seconds of the work, on a GPU with that of its kernels; and what it gives."""
        began = time.perf_counter()
        given = work()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began, given

    def _may_fit(self, more: int) -> bool:
        """Whether the device has memory for so many more full models."""
        free = free_on(self._device)
        return free is None or more * self._size + SPARE_BYTES <= free

    def _tell(
        self, words: str, adapters: Sequence[int], whole: Sequence[int], loaded: int = 0
    ) -> None:
        self._say({"words": words, "seconds": self._left(adapters, whole, loaded)})


def _no_more(count: int) -> str:
    return f"there is no memory for more than {plural(count, 'full model')}"


def _prompt_ids(tokenizer: Any, task: TaskReference) -> list[int]:
    """The task's first test example, as every model of the measurement reads it."""
    held_out = HeldOut()
    (prompt, *_) = held_out.prompts(task, 1) or held_out.prompts(_TASK, 1)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    return formatter.prompt_ids([Message("user", prompt)])
