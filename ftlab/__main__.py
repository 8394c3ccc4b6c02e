"""The command line. `python -m ftlab --help` lists the commands.

A command that cannot do what was asked says so in one line and ends with status 2. A sweep of which
not every run is done ends with status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.system import check_system
from ftlab.basics.words import printable
from ftlab.commands import (
    adapter,
    app,
    cancel,
    doctor,
    generate,
    grid,
    import_results,
    merge,
    methods,
    model,
    predict,
    probe,
    push,
    record,
    report,
    resume,
    runs,
    script,
    specialists,
    sweep,
    tune,
)

COMMANDS = (
    app, sweep, tune, predict, runs, report, generate, grid, adapter, merge, push, script, cancel,
    resume, methods, model, probe, doctor, specialists, record, import_results,
)  # fmt: skip


class _OneLineParser(argparse.ArgumentParser):
    """An error is one line and status 2, without the whole usage before it."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="ftlab" if Path(sys.argv[0]).stem == "ftlab" else "python -m ftlab",
        description="What fine-tuning really costs, measured side by side: full fine-tuning, LoRA, "
        "QLoRA, prompt tuning and the rest of PEFT on your model, your data and your device.",
        epilog="Start with: python -m ftlab sweep --task sql --steps 10",
    )
    parser.add_argument("--version", action="version", version=f"ftlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        check_system()
        return int(options.run(options))
    except FtlabError as error:
        print(f"ftlab: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ftlab: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone (`| head`); nothing is left to tell it
        return 1


if __name__ == "__main__":
    sys.exit(main())
