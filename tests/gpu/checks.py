"""The checks themselves, the most telling first. Each gives rows, and none ends the others."""

from __future__ import annotations

import importlib.metadata
import math
import os
import queue
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launchers.local import start_worker
from ftlab.methods.registry import CORE, METHODS
from ftlab.records.result import RunResult
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec
from tests.gpu.bench import Bench, Row, ended, has, row, steps_of, wait_for, within

ALLOCATED_WITHIN, RESERVED_WITHIN = 0.05, 0.10
SLOWEST_STEP = 2.0
SAME_LOSS = 1e-3
BACK_SECONDS = 10.0

_WANTED = ("torch", "transformers", "peft", "accelerate", "pydantic", "nvidia-ml-py",
           "bitsandbytes", "datasets", "gradio")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """`why` is what it shows, in a sentence. `needs` are packages without which it is not run."""

    name: str
    why: str
    run: Callable[[Bench], Iterator[Row]]
    needs: tuple[str, ...] = ()
    on_cpu: bool = True
    seconds: int = 120


def environment(bench: Bench) -> Iterator[Row]:
    from ftlab.training.machine import describe_environment
    from ftlab.training.model import torch_device

    facts = describe_environment(torch_device(bench.device_id))
    shown = ("device", "driver", "capability", "cuda", "cudnn", "python")
    yield row(
        "environment", "device", True,
        ", ".join(f"{name} {facts[name]}" for name in shown if facts.get(name)), **facts,
    )  # fmt: skip
    for name in _WANTED:
        try:
            yield row("environment", name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield row("environment", name, None, f"{name} is not installed")


def sweep(bench: Bench) -> Iterator[Row]:
    """Base runs and the four methods by real workers, at each length, in one queue."""
    methods = [m for m in CORE if METHODS[m].base_precision is None or has("bitsandbytes")]
    specs = [spec for length in bench.lengths for spec in bench.plan(*methods, length=length)]
    runs = bench.queue(specs, "sweep")
    Dispatcher(runs[0].path.parent).work()
    for directory in runs:
        spec, result = directory.spec(), ended(directory)
        what = f"{spec.label}, {spec.settings.max_length} tokens"
        if result is None or result.status != "done":
            said = "no result" if result is None else f"{result.status}: {result.reason}"
            yield row("sweep", what, False, said)
            continue
        yield from _of_run(bench, spec, directory, result, what)


def _of_run(
    bench: Bench, spec: RunSpec, directory: RunDirectory, result: RunResult, what: str
) -> Iterator[Row]:
    facts, measures = result.environment, result.measures
    kind = "CPU resident" if bench.is_cpu else "CUDA allocated"
    sees = 0 if bench.is_cpu else 1
    yield row(
        "sweep", what, result.memory_kind == kind and facts.get("gpus_visible", 0) == sees,
        f"done; {result.memory_kind}; sees {facts.get('gpus_visible', 0)} GPU(s)",
    )  # fmt: skip
    if spec.is_base:
        return
    kernel = facts.get("attention", "")
    yield row("sweep", f"{what}: attention", _is_good(kernel), kernel or "none seen")
    yield from _memory_of(bench, spec, result, what)
    seconds = [event["seconds"] for event in steps_of(directory)]
    middle = statistics.median(seconds)
    slow = max(seconds) / middle
    yield row(
        "sweep", f"{what}: step times", slow <= SLOWEST_STEP or bench.is_cpu,
        f"median {middle * 1000:.0f} ms, slowest {slow:.2f}x, the first pass apart took "
        f"{measures.first_pass_seconds or 0:.2f} s",
        seconds=seconds, first_pass_seconds=measures.first_pass_seconds,
    )  # fmt: skip


def _memory_of(bench: Bench, spec: RunSpec, result: RunResult, what: str) -> Iterator[Row]:
    from ftlab.prediction.of_run import question_of
    from ftlab.prediction.simulation.step import predict

    predicted = predict(question_of(spec, longest_of(spec)))
    phase = result.phases["train"]
    pairs = (
        ("allocated", phase.peak_bytes, predicted.peak_allocated_bytes, ALLOCATED_WITHIN),
        ("reserved", phase.reserved_bytes, predicted.peak_reserved_bytes, RESERVED_WITHIN),
    )
    for name, measured, expected, share in pairs:
        if bench.is_cpu or not measured or not expected:
            why = "a process is measured on a CPU" if bench.is_cpu else predicted.reason
            yield row("sweep", f"{what}: {name}", None, f"not compared: {why}")
            continue
        yield row(
            "sweep", f"{what}: {name}", within(measured, expected, share),
            f"{measured / 1e6:.0f} MB measured, {expected / 1e6:.0f} MB predicted "
            f"({measured / expected - 1:+.1%})", measured=measured, predicted=expected,
        )  # fmt: skip


def longest_of(spec: RunSpec) -> Any:
    """The longest batch of the run, as the run itself finds it."""
    from pathlib import Path

    from ftlab.tasks.formatting import (
        FileTokenizer,
        PromptFormatter,
        encode,
        longest_batch,
        training_order,
    )
    from ftlab.tasks.reference import load

    settings = spec.settings
    _, data = load(spec.task)
    formatter = PromptFormatter(FileTokenizer(Path(spec.model)))
    examples = encode(formatter, data.train, settings.max_length, "training").formatted
    order = training_order(
        [one.length for one in examples], settings.steps,
        settings.batch_size * settings.accumulation, spec.seed,
    )  # fmt: skip
    return longest_batch(examples, order, settings.batch_size)[0]


def kernels(bench: Bench) -> Iterator[Row]:
    """The rule by which keys are repeated, against torch's own, and the kernels that then run."""
    import torch

    from ftlab.models.gpu_attention import GpuAttention, flash_takes_groups
    from ftlab.models.loading import capability_of
    from ftlab.training.first_pass import attention_kernel

    device = torch.device("cuda", 0)
    capability = capability_of(device)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for width in (64, 128, 200, 256):
            query, key = (
                torch.randn(2, h, 64, width, device=device, dtype=dtype, requires_grad=True)
                for h in (8, 2)
            )
            ours = flash_takes_groups(capability, dtype, width, width, True)
            asked = torch.backends.cuda.SDPAParams(query, key, key, None, 0.0, True, True)
            theirs = torch.backends.cuda.can_use_flash_attention(asked)
            module: Any = type("M", (), {"num_key_value_groups": 4, "is_causal": True})()
            output, _ = GpuAttention(capability)(module, query, key, key, None)
            kernel = attention_kernel(output.sum())
            output.sum().backward()
            yield row(
                "kernels", f"{str(dtype).removeprefix('torch.')}, width {width}",
                ours == theirs and _is_good(kernel),
                f"{kernel}; flash takes groups: {ours}, torch says {theirs}",
            )  # fmt: skip


def first_loss(bench: Bench) -> Iterator[Row]:
    """One step in fp32 on the CPU and on the device."""
    losses = {}
    for device_id in ("cpu", bench.device_id):
        spec = bench.one(
            "lora", policy="fp32", length=128, steps=1, batch_size=2, eval_examples=1,
            device_id=device_id,
        )  # fmt: skip
        losses[device_id] = _execute(bench, spec, f"first-{device_id.partition(':')[0]}")
    here, there = (losses[d].measures.train_loss_first for d in ("cpu", bench.device_id))
    assert here is not None
    assert there is not None
    yield row(
        "first loss", "LoRA, fp32", abs(there / here - 1) <= SAME_LOSS,
        f"{there:.6f} on {bench.device_id}, {here:.6f} on the CPU", cpu=here, device=there,
    )  # fmt: skip


def no_waiting(bench: Bench) -> Iterator[Row]:
    """torch raises at anything in a step that makes the host wait for the GPU."""
    import torch

    from ftlab.training.trainer import MeteringCallback

    begin, end = MeteringCallback.on_step_begin, MeteringCallback.on_step_end

    def watched_begin(self: Any, *given: Any, **named: Any) -> Any:
        answer = begin(self, *given, **named)
        torch.cuda.set_sync_debug_mode("error")
        return answer

    def watched_end(self: Any, *given: Any, **named: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        return end(self, *given, **named)

    with (
        patch.object(MeteringCallback, "on_step_begin", watched_begin),
        patch.object(MeteringCallback, "on_step_end", watched_end),
    ):
        for method in ("full", "lora", "prompt_tuning"):
            try:
                _execute(bench, bench.one(method, steps=3), f"waiting-{method}")
                yield row("no waiting", method, True, "no step waits for the device")
            except RuntimeError as error:
                yield row("no waiting", method, False, _line(error))
            finally:
                torch.cuda.set_sync_debug_mode("default")


def without_bf16(bench: Bench) -> Iterator[Row]:
    """fp16 with scaled gradients, as on a T4: torch is told that the card has no bf16."""
    import torch

    with patch.object(torch.cuda, "is_bf16_supported", lambda *_, **__: False):
        for method in ("lora", "layer_norm", "full", "adalora"):
            try:
                result = _execute(bench, bench.one(method, steps=8), f"fp16-{method}")
            except Exception as error:
                yield row("without bf16", method, False, _line(error))
                continue
            measures = result.measures
            last = measures.train_loss_last
            yield row(
                "without bf16", method, last is not None and math.isfinite(last),
                f"loss {measures.train_loss_first:.3f} to {last:.3f}, "
                f"{measures.skipped_steps} of 8 steps overflowed",
                skipped=measures.skipped_steps,
            )  # fmt: skip


def out_of_memory(bench: Bench) -> Iterator[Row]:
    """A run that meets its limit, and the next one in the queue."""
    batch, limit = (768, 1_000_000_000) if bench.size == "tiny" else (64, 1_500_000_000)
    greedy = replace(
        bench.one("full", batch_size=batch, length=bench.lengths[-1], steps=2), memory_limit=limit
    )
    modest = bench.one("lora", steps=2, batch_size=2)
    first, second = bench.queue([greedy, modest], "out-of-memory")
    Dispatcher(first.path.parent).work()
    result, after = ended(first), ended(second)
    assert result is not None
    assert after is not None
    yield row("out of memory", "at a limit", result.status == "out_of_memory", result.reason)
    yield row("out of memory", "the next run", after.status == "done", after.reason or "done")


def killed(bench: Bench) -> Iterator[Row]:
    """SIGKILL in the middle of a training: memory is back soon, and the queue goes on."""
    first, second = bench.queue(
        [bench.one("full", steps=2_000), bench.one("lora", steps=2)], "killed"
    )
    dispatcher = Dispatcher(first.path.parent)
    before = _in_use(bench)
    running = wait_for(lambda: dispatcher.step() and len(steps_of(first)) >= 2, 90, 0.2)
    worker = first.worker()
    if running is None or worker is None:
        yield row("killed", "training", False, f"it never trained: {first.log_tail(300)}")
        return
    during = _in_use(bench)
    os.kill(worker[0], signal.SIGKILL)
    room = 200_000_000
    back = wait_for(lambda: (_in_use(bench) or 0) <= (before or 0) + room, BACK_SECONDS)
    if before is None:
        yield row("killed", "memory back", None, "what is in use cannot be read here")
    else:
        after = f"not back within {BACK_SECONDS:g} s" if back is None else f"back in {back:.1f} s"
        found = f"{during} bytes in use, {before} before; {after}"
        yield row("killed", "memory back", back is not None, found)
    dispatcher.work()
    result, other = ended(first), ended(second)
    yield row(
        "killed", "its record", result is not None and "SIGKILL" in result.reason,
        "no result" if result is None else result.reason,
    )  # fmt: skip
    done = other is not None and other.status == "done"
    yield row("killed", "the next run", done, "no result" if other is None else other.status)


def _in_use(bench: Bench) -> int | None:
    """Bytes in use on the card, by whomever; `None` where the driver does not say."""
    from ftlab.basics import nvml

    memory = nvml.memory(bench.device.uuid) if bench.device.uuid else None
    return None if memory is None else memory.used


def resume(bench: Bench) -> Iterator[Row]:
    """Checkpointing, accumulation and a run that goes on from a checkpoint."""
    settings = {
        "steps": 6, "batch_size": 2, "accumulation": 2, "gradient_checkpointing": True,
        "checkpoint_every": 2,
    }  # fmt: skip
    whole, cut = bench.queue([bench.one("lora", **settings) for _ in range(2)], "resume")
    start_worker(whole, bench.device_id).wait()
    process = start_worker(cut, bench.device_id)
    reached = wait_for(lambda: len(steps_of(cut)) >= 4 or process.poll() is not None, 90, 0.02)
    process.kill()
    process.wait()
    if reached is None or ended(whole) is None:
        yield row("resume", "first part", False, cut.log_tail(300))
        return
    if ended(cut) is not None:
        yield row("resume", "first part", None, "it was done before it could be killed")
        return
    ask_to_resume(cut)
    start_worker(cut, bench.device_id).wait()
    plain = [event["loss"] for event in steps_of(whole)]
    again = [event["loss"] for event in steps_of(cut)]
    result = ended(cut)
    apart = max((abs(a / b - 1) for a, b in zip(again, plain, strict=False)), default=math.inf)
    exact = apart == 0 if bench.is_cpu else apart < SAME_LOSS
    yield row(
        "resume", "losses of all steps", len(again) == len(plain) == 6 and exact,
        f"apart by {apart:.1e} at most; resumed at {result.resumed if result else '?'}",
    )  # fmt: skip


def playground(bench: Bench) -> Iterator[Row]:
    """A long answer is going when a run starts: the run gets the card, then the answer goes on."""
    from ftlab.playground.client import PlaygroundClient
    from ftlab.playground.requests import GenerateRequest

    run = bench.one("lora", steps=2)
    folder = bench.folder / "playground"
    bench.queue([run], "playground")
    Dispatcher(folder).work()
    updates: queue.Queue[Any] = queue.Queue()
    client = PlaygroundClient(folder)
    most = 300 if bench.is_cpu else 900
    request = GenerateRequest(
        ("base", run.run_id),
        "abc" * 20,
        model=run.model,
        max_new_tokens=most,
    )

    def answer() -> None:
        for update in client.generate(request):
            updates.put(update)
        updates.put(None)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        seen = _until(updates, lambda update: update.kind == "text", 120)
        if not seen:
            yield row("playground", "answer", False, "no token came")
            return
        (second,) = bench.queue([bench.one("full", steps=2)], "playground")
        before = _in_use(bench)
        Dispatcher(folder).work()
        result = ended(second)
        yield row(
            "playground", "the run beside it", result is not None and result.status == "done",
            "no result" if result is None else result.reason or "done",
            in_use_before=before, peak=result and result.phases["train"].process_bytes,
        )  # fmt: skip
        finals: dict[int, Any] = {}
        _until(updates, lambda update: update.is_final and _put(finals, update) == 2, 180)
        texts = {pane: update.kind for pane, update in finals.items()}
        yield row(
            "playground", "the answer after it", texts == {0: "done", 1: "done"},
            f"{texts}; {[update.tokens for update in finals.values()]} tokens",
        )  # fmt: skip
    finally:
        client.close()


def _put(finals: dict[int, Any], update: Any) -> int:
    finals[update.pane] = update
    return len(finals)


def _until(updates: queue.Queue[Any], condition: Callable[[Any], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            update = updates.get(timeout=1)
        except queue.Empty:
            continue
        if update is None:
            return False
        if condition(update):
            return True
    return False


def fewer_bits(bench: Bench) -> Iterator[Row]:
    """Bases in 4 and 8 bits learn."""
    for method in ("qlora", "lora_int8"):
        yield _three_steps(bench, "fewer bits", method)


def every_method(bench: Bench) -> Iterator[Row]:
    """Each method of the registry for three steps."""
    for method in bench.methods:
        if METHODS[method].base_precision is not None and not has("bitsandbytes"):
            yield row("every method", method, None, "needs bitsandbytes, which is not installed")
        else:
            yield _three_steps(bench, "every method", method)


def _three_steps(bench: Bench, check: str, method: str) -> Row:
    from ftlab.basics.errors import NotApplicable

    named = "last_layers:layers=1" if method == "last_layers" else method
    try:
        result = _execute(bench, bench.one(named, steps=3, batch_size=2, eval_examples=1), check)
    except NotApplicable as error:
        return row(check, method, None, str(error))
    except Exception as error:
        return row(check, method, False, _line(error))
    peak, seconds = result.phases["train"].peak_bytes, result.measures.step_seconds
    return row(
        check, method, True,
        f"{(seconds or 0) * 1000:.0f} ms a step, peak {(peak or 0) / 1e6:.0f} MB",
        seconds=seconds, peak=peak, attention=result.environment.get("attention"),
    )  # fmt: skip


def large(bench: Bench) -> Iterator[Row]:
    """The four methods on a model of 1B parameters, for the table of docs/gpu.md."""
    methods = [m for m in CORE if METHODS[m].base_precision is None or has("bitsandbytes")]
    specs = [bench.one(m, size="1B", steps=10, batch_size=4, length=1024) for m in methods]
    runs = bench.queue(specs, "large")
    Dispatcher(runs[0].path.parent).work()
    for directory in runs:
        spec, result = directory.spec(), ended(directory)
        if result is None or result.status != "done":
            yield row("large", spec.label, False, "no result" if result is None else result.reason)
            continue
        m, phase = result.measures, result.phases["train"]
        yield row(
            "large", spec.label, True,
            f"{m.trainable_params:,} trainable, {(phase.peak_bytes or 0) / 1e9:.2f} GB allocated, "
            f"{(phase.reserved_bytes or 0) / 1e9:.2f} GB reserved, "
            f"{(m.step_seconds or 0) * 1000:.0f} ms a step, {(m.adapter_bytes or 0) / 1e6:.1f} MB",
            trainable=m.trainable_params, allocated=phase.peak_bytes, reserved=phase.reserved_bytes,
            step_seconds=m.step_seconds, tokens_per_second=m.tokens_per_second,
            file=m.adapter_bytes, attention=result.environment.get("attention"),
        )  # fmt: skip


CHECKS = (
    Check("environment", "what this machine is, and what it lacks", environment),
    Check("sweep", "real workers, memory as predicted, times, one card each", sweep, seconds=240),
    Check("kernels", "no attention is quadratic in memory", kernels, on_cpu=False, seconds=60),
    Check("first loss", "the device computes what the CPU does", first_loss, seconds=90),
    Check("no waiting", "no step waits for the GPU", no_waiting, on_cpu=False, seconds=90),
    Check(
        "without bf16", "cards before sm80 train in fp16", without_bf16, on_cpu=False, seconds=90
    ),
    Check("out of memory", "a limit is a result, and the queue goes on", out_of_memory),
    Check("killed", "a killed run gives its memory back", killed),
    Check("playground", "an answer makes room for a run", playground, seconds=240),
    Check("resume", "accumulation, checkpoints, going on", resume),
    Check("fewer bits", "bases in 4 and 8 bits", fewer_bits, needs=("bitsandbytes",)),
    Check("every method", "all methods for three steps", every_method, seconds=180),
    Check("large", "four methods on 1B parameters", large, on_cpu=False, seconds=180),
)


def _execute(bench: Bench, spec: RunSpec, name: str) -> RunResult:
    """One run in this process; raises whatever stops it."""
    from ftlab.training.run import RunRecord, execute

    (directory,) = bench.queue([spec], f"{name}-{time.monotonic_ns()}")
    record = RunRecord()
    try:
        execute(spec, directory, record, lambda event: None)
    finally:
        _let_go(bench)
    return record.result("done")


def _let_go(bench: Bench) -> None:
    import gc

    gc.collect()
    if not bench.is_cpu:
        import torch

        with _passing():
            torch.cuda.empty_cache()


@contextmanager
def _passing() -> Iterator[None]:
    """A device past answering is told by the check that met it."""
    try:
        yield
    except RuntimeError:
        return


def _is_good(kernel: str) -> bool:
    return bool(kernel) and "math" not in kernel and "eager" not in kernel


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:300]}"
