"""Answers questions to the predictor, each in its own child process, which then exits.

Run as: python -m ftlab.prediction.worker IDLE_SECONDS, with pipes as stdin and stdout

This process imports torch and the predictor, which takes seconds, and answers no questions itself:
it forks a child with the same imports for every question. The child runs under the `Limits` of its
question, rests while the steps of a run are timed on the cores, and is killed when nobody waits for
its answer. The answer is a prediction as JSON, or an `Ending` if there is none; the line format is
defined in `ftlab.basics.processes`. The process exits when it has been idle for a while. The
simulation patches torch and sets its default dtype, so nothing else may run here.

Without /proc, as on macOS, the memory limit is not enforced; the CPU time limit is.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from ftlab.basics.locks import TimedSteps
from ftlab.basics.processes import Line, parse_line
from ftlab.basics.system import limit_data, status_bytes, use_spare_cores
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import catalogue, known_model
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.models.reference import BUNDLED_ID
from ftlab.prediction.question import (
    Ending,
    Limits,
    Prediction,
    Question,
    Step,
    ask_about,
    dump_prediction,
    load_question,
)

Answer = Callable[[Question], Prediction]

_LOOK_SECONDS = 0.2
_READ_BYTES = 1 << 16
_MOST_BYTES = 1 << 20  # maximum size of an answer
_NO_MEMORY, _BROKEN = 3, 4  # exit codes of a child without an answer


def main(arguments: list[str]) -> int:
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries may print to stdout
    use_spare_cores()
    while TimedSteps("cpu").keep_others_off():
        time.sleep(_LOOK_SECONDS)
    serve(_predictor(), 0, answers, float(arguments[0]))
    return 0


def serve(answer: Answer, questions: int, answers: int, idle_seconds: float) -> None:
    """Reads from file descriptor `questions`, answers on `answers`, until it is closed or idle.

    The children rest in the first minute in which steps are timed on the cores.
    """
    steps = TimedSteps("cpu")
    with selectors.DefaultSelector() as ready:
        children: dict[int, _Child] = {}  # by number
        ready.register(questions, selectors.EVENT_READ)
        unread = b""
        try:
            while True:
                resting = bool(children) and steps.keep_others_off()
                for child in children.values():
                    child.rest(resting)
                events = ready.select(_LOOK_SECONDS if children else idle_seconds)
                if not events and not children:
                    return
                for key, _ in events:
                    if key.data is not None:
                        _hear(key.data, children, ready, answers)
                        continue
                    read = os.read(questions, _READ_BYTES)
                    if not read:
                        return
                    *lines, unread = (unread + read).split(b"\n")
                    for line in map(parse_line, lines):
                        if line.content is not None:
                            child = _start(line, answer, (questions, answers))
                            children[line.number] = child
                            ready.register(child.pipe, selectors.EVENT_READ, child)
                        elif line.number in children:
                            children[line.number].end()
        finally:
            for child in children.values():
                child.end()


@dataclass
class _Child:
    """A process that answers one question; `said` is the part of its answer read so far."""

    number: int
    pid: int
    pipe: int
    said: bytearray = field(default_factory=bytearray)
    is_resting: bool = False

    def rest(self, resting: bool) -> None:
        if resting != self.is_resting:
            os.kill(self.pid, signal.SIGSTOP if resting else signal.SIGCONT)
            self.is_resting = resting

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # the pid is not reused before waitpid


def _hear(
    child: _Child, children: dict[int, _Child], ready: selectors.BaseSelector, answers: int
) -> None:
    """Reads from a child; forwards its answer when the child has exited."""
    read = os.read(child.pipe, _READ_BYTES)
    child.said += read
    if len(child.said) > _MOST_BYTES:
        child.end()
    if read:
        return
    ready.unregister(child.pipe)
    os.close(child.pipe)
    del children[child.number]
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    said = child.said.decode("utf-8", "replace") if code == 0 else ""
    _write(answers, Line(child.number, said or _ending(code)).dump())


def _ending(code: int) -> Ending:
    if code == -signal.SIGPROF:
        return "time"
    if code in (_NO_MEMORY, -signal.SIGKILL):  # SIGKILL: the OOM killer
        return "memory"
    return "broken"


def _start(line: Line, answer: Answer, ours: tuple[int, int]) -> _Child:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return _Child(line.number, pid, reads)
    code = _BROKEN
    try:
        for file in (reads, *ours):  # else the client would not notice that this worker exited
            os.close(file)
        _hold_to(Limits(line.content["cpu_seconds"], line.content["memory_bytes"]))
        question = load_question(line.content["question"].encode())
        _write(writes, dump_prediction(answer(question)))
        code = 0
    except MemoryError:
        code = _NO_MEMORY
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _hold_to(limits: Limits) -> None:
    """Limits this process: SIGPROF kills it above the CPU time; allocations above the size fail.

    The kernel counts the time in any code, and no handler is called. RLIMIT_DATA counts private
    writable memory (`ftlab.training.memory` explains why it is not RLIMIT_AS).
    """
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
    data = status_bytes("VmData")
    if data is not None:
        limit_data(data + limits.memory_bytes, for_good=True)
    gc.disable()  # the process exits before garbage collection would pay off


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _predictor() -> Answer:
    """Imports the predictor, and the modules that it imports at the first question."""
    prepare_for_libraries("cpu", forks=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    with lasting_imports():
        import torch

        with patch.object(torch, "compile", _as_it_is):
            from ftlab.prediction.simulation.step import answer, predict
        torch.set_num_threads(1)  # fork copies only one thread
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        for question in _small_questions():
            predict(question)
        for kind in sorted({str(model.config["model_type"]) for model in catalogue()}):
            with suppress(KeyError):
                MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]
    return answer


def _small_questions() -> list[Question]:
    """Returns quick questions that trigger the imports which every child would repeat."""
    known = known_model(BUNDLED_ID)
    assert known is not None
    variants = [Variant(method) for method in ("lora", "qlora")]
    return ask_about(dict(known.config, num_hidden_layers=1), variants, Step(16, batch=1))


def _as_it_is(function: Any = None, **options: Any) -> Any:
    """Replaces `torch.compile`: it takes 0.5 s for four unused kernels at bitsandbytes' import."""
    return (lambda later: later) if function is None else function


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
