"""The process that measures one way of answering (`ftlab.training.answering`).

Run as: python -m ftlab.training.answering_worker RUN_DIR WAY

The run's worker starts it with its own environment, on the device that it holds. The answer is a
file in the run's scratch folder: the fields of `Cost`, or the reason why there are none.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

from ftlab.basics.devices import cpu_count
from ftlab.methods.peft_rules import match_without_backtracking
from ftlab.models.libraries import lasting_imports
from ftlab.models.openmp import yield_cores
from ftlab.records.result import AnswerWay
from ftlab.records.run import RunDirectory


def main(arguments: list[str]) -> int:
    directory, way = RunDirectory(Path(arguments[0])), cast(AnswerWay, arguments[1])
    match_without_backtracking()
    with lasting_imports():
        import torch

        from ftlab.models.resolve import resolve_model
        from ftlab.training import answering, memory
        from ftlab.training.meters import memory_meter
        from ftlab.training.model import torch_device
        from ftlab.training.step import Arithmetic
        from ftlab.training.trainer import synchronise

    file = answering.answer_file(directory, way)
    try:
        spec = directory.spec()
        device = torch_device(spec.device)
        torch.set_num_threads(cpu_count())
        yield_cores()
        if spec.memory_limit is not None:
            memory.hold_to(spec.memory_limit, device)
        given = json.loads(answering.request_file(directory).read_bytes())
        cost = answering.measure_cost(
            partial(
                answering.load, spec, way, directory.adapter, resolve_model(spec.model), device
            ),
            answering.Prompts(**given),
            Arithmetic(spec.dtype_policy, device),
            memory_meter(device),
            partial(synchronise, device),
        )
    except Exception as error:  # the run's worker says it; the log has the traceback
        memory.let_go()
        traceback.print_exc()
        file.write_text(json.dumps({"reason": answering.reason_of(error)}), encoding="utf-8")
        return 1
    file.write_text(json.dumps(asdict(cost)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
