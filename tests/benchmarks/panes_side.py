"""Answers prompts in panes with the playground of one checkout, in a process of its own.

Run as: python tests/benchmarks/panes_side.py JOB.json   (made by tests.benchmarks.side_by_side,
with the checkout in PYTHONPATH). The job names the folders of the adapters, so that both sides use
the same ones; a module that was moved since commit 5a5ce30 is looked for under both names.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock


def moved(name: str, other: str) -> Any:
    """The module under the one name, or else under the other."""
    return import_module(name if find_spec(name) else other)


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    moved("ftlab.models.libraries", "ftlab.runs.spawn").prepare_for_libraries("cpu")
    import torch
    from transformers.utils import logging

    from ftlab.playground.engine import Engine
    from ftlab.playground.panes import BASE
    from ftlab.tasks.formatting import PromptFormatter
    from tests.fakes import make_run

    requests = moved("ftlab.playground.requests", "ftlab.playground.protocol")
    torch.set_num_threads(job["threads"])
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for seed, adapter in enumerate(job["adapters"]):
            run = make_run(Path(folder), "lora", seed=seed, model=job["model"])
            shutil.copytree(adapter, run.adapter, dirs_exist_ok=True)
            names.append(run.run_id)
        engine = Engine(Path(folder), torch.device("cpu"))
        engine.load(job["model"], job["precision"])
        took, said = [], []
        for prompt in [job["prompts"][0], *job["prompts"]]:
            request = requests.GenerateRequest(
                (BASE, *names),
                prompt,
                model=job["model"],
                precision=job["precision"],
                max_new_tokens=job["new_tokens"],
            )
            finals: dict[int, Any] = {}

            def send(update: Any, finals: dict[int, Any] = finals) -> None:
                if update.is_final:
                    finals[update.pane] = update

            began = time.perf_counter()
            with mock.patch.object(PromptFormatter, "stop_ids", return_value=[]):
                engine.answer(request, send, lambda: None)
            took.append(time.perf_counter() - began)
            for update in finals.values():
                assert update.kind == "done", update.text
            said.append([finals[pane].text for pane in range(1 + len(names))])
    # The first answer also attaches the adapters.
    print(json.dumps({"seconds": took[1:], "texts": said[1:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
