"""The command line. `python -m ftlab --help` lists the commands; without one the app starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ftlab.commands import (
    adapter,
    app,
    cancel,
    doctor,
    export,
    generate,
    grid,
    import_results,
    merge,
    methods,
    model,
    open_sweep,
    pack,
    predict,
    prove,
    push,
    race,
    recommend,
    report,
    resume,
    runs,
    script,
    send,
    serve,
    serving,
    sweep,
    tune,
)
from ftlab.commands.program import Program

COMMANDS = (
    app, sweep, send, tune, race, prove, predict, runs, recommend, report, generate, grid, serve,
    serving, adapter, merge, export, push, script, cancel, resume, methods, model, doctor,
    import_results, pack, open_sweep,
)  # fmt: skip


def _program() -> Program:
    return Program(
        name="ftlab" if Path(sys.argv[0]).stem == "ftlab" else "python -m ftlab",
        description="What fine-tuning really costs, measured side by side: full fine-tuning, LoRA, "
        "QLoRA, prompt tuning and the rest of PEFT on your model, your data and your device.",
        epilog="Without a command: app --fetch-model. On the command line, start with: python -m "
        "ftlab sweep --task sql --steps 10",
        commands=COMMANDS,
    )


def build_parser() -> argparse.ArgumentParser:
    return _program().parser()


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    return _program().main(given or ["app", "--fetch-model"])


if __name__ == "__main__":
    sys.exit(main())
