"""Measures what answering with the result of a run costs: tokens per second and memory.

It is measured after all else, from the saved files, in up to three ways: the adapter on its base as
trained, merged into the base, and on a base in 4 bits. Each way has a process of its own
(`answering_worker`): all start from the same memory, and one that is killed, as by the OOM killer,
leaves the result of the run as it is.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ftlab.basics.devices import CPU
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.processes import WorkerEnded, module_command, worker_environment
from ftlab.methods.limits import failed_on_base
from ftlab.methods.peft_rules import UNMERGEABLE
from ftlab.models.files import read_model_json
from ftlab.models.generation import generation_inputs, greedy_config, left_padded
from ftlab.models.loading import load_base_model, use_kernels, weight_dtype
from ftlab.models.merging import merge_into
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.records.metrics.answering import memory_key, speed_key
from ftlab.records.result import ANSWER_WAYS, ANSWERING, AnswerWay, PhaseMeasure
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub
from ftlab.training.failures import is_out_of_memory
from ftlab.training.machine import QUIET_LOAD, LoadMeter
from ftlab.training.meters import MemoryMeter
from ftlab.training.step import Arithmetic, compute_adapters_in_low_precision

ANSWERS, NEW_TOKENS = 5, 32
"""Timed answers of each way, and the tokens of each answer."""

WORKER = "ftlab.training.answering_worker"


@dataclass(frozen=True)
class Prompts:
    """The prompts to answer, as token ids, and the tokenizer's padding and end-of-turn tokens."""

    prompts: tuple[tuple[int, ...], ...]
    pad_id: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of one way; `start_bytes` is the process without a model. `None`: not measurable.

    `other_load` is the share of the cores that other processes used meanwhile, 0 on a GPU.
    """

    tokens_per_second: float
    start_bytes: int | None
    peak_bytes: int | None
    reserved_bytes: int | None = None
    other_load: float = 0.0

    @property
    def net_bytes(self) -> int | None:
        if self.peak_bytes is None or self.start_bytes is None:
            return None
        return self.peak_bytes - self.start_bytes


@dataclass(frozen=True)
class Costs:
    """Fields of `Measures`, sentences on what was not measured, and the phase as a whole."""

    measures: dict[str, Any]
    notes: list[str]
    phase: PhaseMeasure


Report = Callable[[dict[str, Any]], None]


def measure_answering(
    spec: RunSpec, directory: RunDirectory, prompts: Prompts, report: Report
) -> Costs:
    """Measures every way that the method has; one that fails leaves its measures `None`.

    The caller has freed the memory of the training. The prompts may be fewer than `ANSWERS`.
    """
    began = time.perf_counter()
    report({"event": "phase", "phase": ANSWERING})
    found: dict[AnswerWay, Cost] = {}
    reasons = {way: why_not(spec, way, directory.adapter) for way in ANSWER_WAYS}
    if spec.base_precision == "nf4":  # then it is the adapter on its base
        del reasons["nf4"]
    ways = [way for way, reason in reasons.items() if not reason]
    request_file(directory).write_text(json.dumps(asdict(prompts)), encoding="utf-8")
    for done, way in enumerate(ways, start=1):
        try:
            found[way] = in_own_process(spec, directory, way)
        except Exception as error:  # whatever it is, the run is done; only this measure is missing
            reasons[way] = one_line(error).rstrip(".")
        report({"event": ANSWERING, "done": done, "total": len(ways)})
    if spec.base_precision == "nf4" and "adapter" in found:
        found["nf4"] = found["adapter"]
    notes = [
        f"Answering ({ANSWER_WAYS[way]}) was not measured: {reason}."
        for way, reason in reasons.items()
        if reason
    ]
    notes += [
        f"Answering ({ANSWER_WAYS[way]}): the computer was busy: other processes used "
        f"{cost.other_load:.0%} of the cores, so its speed is too low."
        for way, cost in found.items()
        if cost.other_load > QUIET_LOAD
    ]
    measures: dict[str, Any] = {}
    for way, cost in found.items():
        measures |= {speed_key(way): cost.tokens_per_second, memory_key(way): cost.net_bytes}
    return Costs(measures, notes, _phase(time.perf_counter() - began, list(found.values())))


def why_not(spec: RunSpec, way: AnswerWay, folder: Path) -> str:
    """The reason why a method has no such way, as a clause; "" if it has, as far as is known."""
    assert spec.variant is not None
    method = spec.variant.spec
    if not method.is_adapter:
        if way == "adapter":
            return f"{spec.label} has no adapter: what it trained is part of the merged model"
        is_kept = way == "merged" or method.ships_whole_model
        return "" if is_kept else "trained weights in 16 bits cannot replace those of a 4-bit base"
    kind = str(read_model_json(folder / "adapter_config.json").get("peft_type"))
    if way == "merged" and kind in UNMERGEABLE:
        return f"{spec.label} cannot be merged: {UNMERGEABLE[kind]}"
    on_4_bits = replace(spec.variant, base="nf4")
    # What starts from changed weights (PiSSA) is saved as LoRA, which goes on any base.
    if way == "nf4" and kind != "LORA" and spec.device == CPU and failed_on_base(on_4_bits):
        return f"{spec.label} does not work on a base in 4 bits with the installed versions"
    return ""


def load(
    spec: RunSpec, way: AnswerWay, folder: Path, source: ResolvedModel, device: torch.device
) -> PreTrainedModel | PeftModel:
    """Loads the saved result in that way, onto the device, under the dtype policy of the run."""
    assert spec.variant is not None
    method, policy = spec.variant.spec, spec.dtype_policy
    quantised = "nf4" if way == "nf4" else spec.base_precision if way == "adapter" else None
    if method.ships_whole_model:
        whole = ResolvedModel(ModelReference("folder", str(folder)), folder)
        return load_base_model(whole, policy, quantised, device)
    if way == "merged":
        # On the CPU: a GPU that holds the model in 16 bits may not hold it in 32.
        base = load_base_model(source, policy, None, torch.device(CPU))
        merged = merge_into(base, folder, spec.label)
        for parameter in merged.parameters():
            parameter.data = parameter.data.to(weight_dtype(policy, device, False))
        use_kernels(device)
        moved: Any = merged
        return cast(PreTrainedModel, moved.to(device))
    base = load_base_model(source, policy, quantised, device)
    model: Any = PeftModel.from_pretrained(base, str(folder), is_trainable=False)
    if policy != "fp32":
        compute_adapters_in_low_precision(model)
    return cast(PeftModel, model)


def measure_cost(
    loaded: Callable[[], PreTrainedModel | PeftModel],
    prompts: Prompts,
    arithmetic: Arithmetic,
    memory: MemoryMeter,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Loads a model and answers, greedily and one prompt at a time, `NEW_TOKENS` tokens each.

    The first answer, to the longest prompt, is not timed: it loads kernels. `wait` returns when the
    device has done its work. The peak is that of the answers, not of the loading.
    """
    start = memory.start()
    # Frozen in every way: torch multiplies with an output layer that learns by another path.
    model = loaded().eval().requires_grad_(False)
    memory.start()
    config = greedy_config(NEW_TOKENS, prompts.stop_ids, prompts.pad_id)
    config.min_new_tokens = NEW_TOKENS  # an answer that ends early would be quicker

    def tokens_per_second(prompt: tuple[int, ...]) -> float:
        wait()
        began = clock()
        batch = left_padded([prompt], prompts.pad_id, arithmetic.device)
        callee, inputs = generation_inputs(model, batch)
        output = callee.generate(**inputs, generation_config=config)
        wait()
        seconds = clock() - began
        memory.now()  # where there is no peak, it is the highest of these
        given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return float((output.shape[1] - given) / seconds)

    given = prompts.prompts
    with torch.inference_mode(), arithmetic.context():
        tokens_per_second(max(given, key=len))
        load = LoadMeter()
        speeds = [tokens_per_second(given[place % len(given)]) for place in range(ANSWERS)]
    reading = memory.read()
    others = load.read()[1] if arithmetic.device.type == CPU else 0.0
    return Cost(statistics.median(speeds), start, reading.peak, reading.reserved, others)


def in_own_process(spec: RunSpec, directory: RunDirectory, way: AnswerWay) -> Cost:
    """Measures one way in a process that is killed with this one's group.

    Raises `FtlabError` with the reason that the process gave, or else with how it ended.
    """
    ended = subprocess.run(
        module_command(WORKER, str(directory.path), way),
        stdin=subprocess.DEVNULL,
        env=worker_environment(needs_hub(spec)),
    )
    try:
        said = json.loads(answer_file(directory, way).read_bytes())
    except FileNotFoundError:
        raise FtlabError(str(WorkerEnded(ended.returncode))) from None
    if "reason" in said:
        raise FtlabError(said["reason"])
    return Cost(**said)


def reason_of(error: BaseException) -> str:
    """The error as a clause."""
    return "memory ran out" if is_out_of_memory(error) else one_line(error)[:300]


def request_file(directory: RunDirectory) -> Path:
    return directory.scratch / "answering.json"


def answer_file(directory: RunDirectory, way: AnswerWay) -> Path:
    return directory.scratch / f"answering-{way}.json"


def _phase(seconds: float, costs: list[Cost]) -> PhaseMeasure:
    """The phase: the highest peak of its processes."""
    highest = max(costs, key=lambda cost: cost.peak_bytes or 0, default=None)
    phase = PhaseMeasure(seconds)
    if highest is None:
        return phase
    return replace(
        phase,
        start_bytes=highest.start_bytes,
        peak_bytes=highest.peak_bytes,
        reserved_bytes=highest.reserved_bytes,
    )
