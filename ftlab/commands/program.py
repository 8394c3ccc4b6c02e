"""A command line with subcommands: parsing, error messages and exit status.

A command that fails prints one line and exits with status 2. A sweep in which not every run is done
exits with status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.system import check_system
from ftlab.basics.words import printable


class _OneLineParser(argparse.ArgumentParser):
    """Prints an error as one line, without the usage text, and exits with status 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Program:
    """A command line; each of `commands` is a module (see `ftlab.commands`)."""

    name: str
    description: str
    epilog: str
    commands: tuple[ModuleType, ...]

    def parser(self) -> argparse.ArgumentParser:
        parser = _OneLineParser(prog=self.name, description=self.description, epilog=self.epilog)
        parser.add_argument("--version", action="version", version=f"ftlab {__version__}")
        commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        for command in self.commands:
            sub = commands.add_parser(
                command.NAME,
                help=command.SUMMARY,
                description=command.DESCRIPTION,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
        return parser

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the command in the arguments; returns the exit status."""
        options = self.parser().parse_args(arguments)
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
            sys.stderr.close()  # the reader has closed the pipe (`| head`)
            return 1
