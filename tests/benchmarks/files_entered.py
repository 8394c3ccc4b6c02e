"""Which files of ftlab a launch, a run and a prompt enter: a measure of how much one must read.

Run as: python -m tests.benchmarks.files_entered [--model FOLDER]

Every file counts of which a function is called, however small; what only runs while modules are
imported does not count.

- launch: from the press of the button, with the form as it stands, to the written run directories.
- run: the worker of one LoRA run of two steps, from its spec to its result.
- prompt: from Send to the last token of base and adapter, in the page and in the worker.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import ftlab
from ftlab.basics.processes import python_environment
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import parse_variant
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.playground.requests import GenerateRequest
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.app import build_app
from ftlab.tabs.playground.session import Session, ask, choose
from ftlab.tasks.reference import parse_task
from tests.waiting import wait_until

PACKAGE = Path(ftlab.__file__).parent


class Entered:
    """The files of ftlab of which a function was called, in the order of their first call."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self._importing = threading.local()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_name == "<module>":
            if event not in ("call", "return") or frame.f_globals.get("__name__") == "__main__":
                return
            step = 1 if event == "call" else -1
            self._importing.depth = getattr(self._importing, "depth", 0) + step
        elif event == "call" and code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            is_function = code.co_flags & inspect.CO_OPTIMIZED
            if is_function and not getattr(self._importing, "depth", 0):
                self.files.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)))


@contextmanager
def entered() -> Iterator[Entered]:
    """Watches this thread, and those that it starts."""
    found = Entered()
    threading.setprofile(found)
    sys.setprofile(found)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def traced_command(file: Path, module: str, *arguments: str) -> list[str]:
    """The command of a process that runs the module and writes what it entered to the file."""
    return [sys.executable, "-m", "tests.benchmarks.files_entered", "--trace", str(file), module,
            *arguments]  # fmt: skip


def trace(file: Path, module: str, arguments: Sequence[str]) -> None:
    """Runs the module as `python -m` does, and writes what it entered to the file."""
    sys.argv = [module, *arguments]
    for library in ("torch", "transformers", "peft"):  # being watched, they take long to import
        importlib.import_module(library)
    with entered() as found:
        try:
            runpy.run_module(module, run_name="__main__")
        finally:
            sys.setprofile(None)
            file.write_text(json.dumps(list(found.files)), encoding="utf-8")


def launch(folder: Path) -> list[str]:
    """Presses the button of a page whose form is as it opens; no dispatcher is started."""
    page = build_app(folder)
    handlers = [handler for handler in page.fns.values() if handler.name == "press"]
    press = max(handlers, key=lambda handler: len(handler.inputs))  # the one with the whole form
    with patch("ftlab.tabs.experiment.tab.start_dispatcher"), entered() as found:
        list(press.fn("", (None, 0.0), *(part.value for part in press.inputs[2:])))
    if not list(folder.glob("*/spec.json")):
        raise SystemExit("The form as it opens could not be launched.")
    return list(found.files)


def run(folder: Path, model: str) -> tuple[RunDirectory, list[str]]:
    """One LoRA run of two steps, by the worker's own command."""
    request = SweepRequest(
        model=model,
        task=parse_task("sql"),
        variants=(parse_variant("lora"),),
        settings=TrainingSettings(steps=2, eval_examples=4),
        device="cpu",
    )
    spec = next(spec for spec in plan_sweep(request) if not spec.is_base)
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    file = folder / "run.json"
    command = traced_command(file, "ftlab.jobs.run_worker", str(directory.path))
    subprocess.run(command, env=python_environment(), check=False)
    result = directory.result()
    if result is None or result.status != "done":
        raise SystemExit(f"The run is not done: {directory.log_tail(1_000)}")
    return directory, json.loads(file.read_text(encoding="utf-8"))


def prompt(folder: Path, model: str, run_id: str) -> list[str]:
    """A prompt to the base and to the run, from Send to the last token: page and worker."""
    file = folder / "prompt.json"
    command = traced_command(file, "ftlab.playground.worker", str(folder), "--idle-seconds", "1")
    asked = GenerateRequest((), "How many rows are there?", model, max_new_tokens=8)
    with closing(PlaygroundClient(folder, command=command)) as client:
        session = choose(Session(), ["base", run_id], folder)
        with entered() as found:
            for _ in ask(session, asked, False, client, HeldOut()):
                pass
        updates = [pane.update for pane in session.panes if pane.source]
        if session.errors or any(update is None or update.kind == "error" for update in updates):
            raise SystemExit(f"The prompt was not answered: {session.errors} {updates}")
        wait_until(file.exists)  # the worker writes it as it ends, after a second without a prompt
    return [*found.files, *json.loads(file.read_text(encoding="utf-8"))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled", help="model of run and prompt")
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.trace:
        file, module, *rest = options.trace
        trace(Path(file), module, rest)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"launch": launch(folder)}
        directory, files["run"] = run(folder, options.model)
        files["prompt"] = prompt(folder, options.model, directory.run_id)
    for walk, names in files.items():
        names = list(dict.fromkeys(names))
        own = [name for name in names if not name.startswith("basics/")]
        print(f"{walk}: {len(names)} files, {len(own)} of them above basics")
        print("\n".join(f"  {name}" for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
