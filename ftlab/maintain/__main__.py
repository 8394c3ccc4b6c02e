"""The commands for maintainers, run in a checkout; `python -m ftlab.maintain --help` lists them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ftlab.commands.program import Program
from ftlab.maintain import (
    capabilities,
    claims,
    describe,
    race_sweep,
    record,
    specialists,
    transfer,
)

PROGRAM = Program(
    name="python -m ftlab.maintain",
    description="Makes anew what ships with ftlab: the tables of methods, the recorded sweeps, the "
    "adapters of the bundled tasks, and the studies of what a small run shows.",
    epilog="The tasks' examples: python -m ftlab.maintain.tasks FOLDER",
    commands=(capabilities, describe, record, specialists, transfer, claims, race_sweep),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
