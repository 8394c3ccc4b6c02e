"""The process that measures how many adapters one base serves, and how many full models fit.

Run as: python -m ftlab.playground.serving_worker RUNS_FOLDER

It reads one request from stdin, as `ftlab.basics.processes` sends it, and holds the lock of the
device while it measures. Copies of the adapter are read from its file one by one, and each has
weights of its own, as adapters of different customers have.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.basics.devices import Device, cpu_count, resolve_device
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.locks import DeviceLock, holding
from ftlab.basics.processes import Line, parse_line
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.models.reference import parse_model
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import PaneSource, line_up
from ftlab.playground.serving import ServingRequest, check, request_from_json
from ftlab.playground.worker import line_writer
from ftlab.records.serving import ServingPoint, ServingRecord
from ftlab.tasks.reference import TaskReference

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ftlab.playground.attach import Attached
    from ftlab.playground.rows import RowAdapters

    Model = PreTrainedModel | PeftModel | RowAdapters

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_PROBED = 16
"""Adapters of the second of two probes, from which the time of all counts is predicted."""

_TASK = TaskReference("bundled", "sql")
Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class _Probe:
    """Seconds of the answers of one adapter and of `rows` together, and of loading either model."""

    one: float
    rows: int
    together: float
    attach: float
    load: float

    def answers(self, count: int) -> float:
        """Seconds of the answers of `count` adapters, on a line through both probes."""
        if self.rows == 1:
            return self.one * count
        slope = (self.together - self.one) / (self.rows - 1)
        return self.one + max(0.0, slope) * (count - 1)


class Measurement:
    """Measures one adapter on its base; all of it in this process, on one device."""

    def __init__(
        self, request: ServingRequest, source: PaneSource, model: str, device: Device, say: Say
    ) -> None:
        import torch

        from ftlab.models.loading import load_base_model, load_tokenizer
        from ftlab.models.resolve import resolve_model
        from ftlab.playground.engine import held_in
        from ftlab.training.meters import memory_meter

        torch.set_num_threads(cpu_count())
        self._request, self._source, self._say = request, source, say
        self._model = model
        self._device = torch.device("cuda:0" if device.is_cuda else device.id)
        self._resolved = resolve_model(model, say=print)
        self._policy, self._base_precision = held_in(request.precision)
        tokenizer = load_tokenizer(self._resolved)
        self._pad_id = int(tokenizer.pad_token_id)
        self._prompt = _prompt_ids(tokenizer, source.task or _TASK)
        self._meter = memory_meter(self._device)
        self._load_base = lambda: (
            load_base_model(self._resolved, self._policy, self._base_precision, self._device)
            .requires_grad_(False)
            .eval()
        )
        self._bare = 0  # read once kernels and libraries are loaded
        self._base: Any = None

    def run(self) -> ServingRecord:
        import torch

        from ftlab.training.machine import device_name
        from ftlab.training.model import shipped_bytes

        with torch.inference_mode():
            probe = self._probe()
            self._tell("the base is loaded", self._expected(probe))
            adapters = self._adapters()
            self._base = None
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

    def _probe(self) -> _Probe:
        """Loads the base, and times the parts of all that follows."""
        self._base = self._load_base()
        self._answer_once(self._answering([self._attach(0)]))  # loads kernels
        self._base = None
        self._bare = self._meter.start() or 0
        began = time.perf_counter()
        self._base = self._load_base()
        loaded = time.perf_counter()
        first = self._attach(0)
        attached = time.perf_counter()
        one = self._answer_once(self._answering([first]))
        rows = min(_PROBED, self._request.counts[-1]) if first.low_rank else 1
        together = self._answer_once(self._answering([first] * rows)) if rows > 1 else one
        return _Probe(one, rows, together, attached - loaded, loaded - began)

    def _expected(self, probe: _Probe) -> float:
        """Seconds of all that follows."""
        counts = self._request.counts
        seconds = probe.attach * counts[-1]
        seconds += sum(probe.answers(count) for count in counts)
        if self._request.full_models:
            whole = [count for count in counts if self._may_fit(count)]
            seconds += probe.load * max(whole, default=0)
            seconds += sum(probe.one * count for count in whole)
        return seconds

    def _adapters(self) -> list[ServingPoint]:
        points, attached = [], list[Any]()
        loading = 0.0
        for count in self._request.counts:
            began = time.perf_counter()
            attached += [self._attach(number) for number in range(len(attached), count)]
            loading += time.perf_counter() - began
            began = time.perf_counter()
            models = self._answering(attached)
            swap = time.perf_counter() - began
            points.append(self._point(count, loading, swap, models))
            self._tell(f"{count} of {self._request.counts[-1]} adapters")
        return points

    def _full_models(self) -> tuple[list[ServingPoint], str]:
        """As many as memory holds, each read from the base's own files, and why no more."""
        from ftlab.playground.attach import Attached

        points: list[ServingPoint] = []
        models: list[Any] = []
        loading = 0.0
        for count in self._request.counts:
            began = time.perf_counter()
            while len(models) < count:
                if not self._may_fit(1):
                    return points, f"there is no memory for more than {len(models)} full models"
                models.append(Attached(None, self._own_model()))
            loading += time.perf_counter() - began
            points.append(self._point(count, loading, 0.0, self._answering(models)))
            self._tell(f"{count} of {self._request.counts[-1]} full models")
        return points, ""

    def _own_model(self) -> PreTrainedModel:
        """A full model whose weights are its own, as of another file: not mapped from one."""
        model = self._load_base()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    def _attach(self, number: int) -> Attached:
        from ftlab.playground.attach import attach

        return attach(self._base, replace(self._source, name=f"{self._source.name}#{number}"))

    def _answering(self, attached: Sequence[Attached]) -> list[tuple[Model, int]]:
        """The models that answer, and with how many rows: one for all plain LoRA adapters."""
        from ftlab.playground.rows import RowAdapters

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
        from ftlab.playground.decoding import Lane
        from ftlab.playground.rows import RowAdapters

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

    def _may_fit(self, more: int) -> bool:
        """Whether the device has memory for so many more full models."""
        from ftlab.playground.engine import SPARE_BYTES, free_on

        free = free_on(self._device)
        size = sum(path.stat().st_size for path in self._resolved.folder.glob("*.safetensors"))
        return free is None or more * size + SPARE_BYTES <= free

    def _tell(self, words: str, seconds: float | None = None) -> None:
        self._say({"words": words} | ({} if seconds is None else {"seconds": seconds}))


def _prompt_ids(tokenizer: Any, task: TaskReference) -> list[int]:
    """The task's first test example, as every model of the measurement reads it."""
    from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
    from ftlab.tasks.spec import Message

    held_out = HeldOut()
    (prompt, *_) = held_out.prompts(task, 1) or held_out.prompts(_TASK, 1)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    return formatter.prompt_ids([Message("user", prompt)])


def answer(request: ServingRequest, runs_folder: Path, device: Device, say: Say) -> None:
    """Measures and says the record; an error that a person can mend is said as a sentence."""
    try:
        source = check(request, runs_folder)
        model = line_up([request.pane], None, runs_folder).model
        waiting = {"words": "waiting for a training run or a prompt"}
        with holding(DeviceLock(device.id), lambda: say(waiting)):
            with lasting_imports():
                import torch  # noqa: F401 - under the lock, for it would disturb a training run
            record = Measurement(request, source, model, device, say).run()
        say({"record": asdict(record)})
    except FtlabError as error:
        say({"error": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"error": f"The measurement failed: {one_line(error)[:200]}"})


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(f"usage: python -m {__spec__.name} RUNS_FOLDER", file=sys.stderr)
        return 2
    write = line_writer()
    device = resolve_device("auto")
    prepare_for_libraries(device.id)
    line = parse_line(sys.stdin.buffer.readline())
    request = request_from_json(line.content)
    answer(request, Path(arguments[0]), device, lambda said: write(Line(line.number, said)))
    write(Line(line.number))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
