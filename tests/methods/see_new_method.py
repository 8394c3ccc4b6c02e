"""Prints, as JSON, what each surface shows once a new method is there.

A test runs it in a process of its own, because the methods are found when ftlab is imported. It
names an empty folder for runs, and a folder that counts as one of `ftlab.methods.families`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from ftlab.methods import families


def printed(*arguments: str) -> str:
    """What the command line prints."""
    from ftlab.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(list(arguments))
    return out.getvalue()


def main(runs: Path, files: str) -> None:
    families.__path__.append(files)
    from ftlab.records.store import RunStore
    from ftlab.share.report import sweep_report
    from ftlab.tabs.experiment.method_view import method_table
    from ftlab.tabs.results.columns import Query, show
    from ftlab.tabs.results.html import table_html
    from tests.fakes import make_sweep
    from tests.share.fakes import data_of

    make_sweep(runs, ("full", "my_lora", "our_lora"))
    surfaces = {
        "page": method_table([]),
        "command line": printed("methods"),
        "help of sweep": printed("sweep", "--help"),
        "results table": table_html(show(RunStore(runs).table(), Query())),
        "report": sweep_report(data_of(runs)),
    }
    print(json.dumps(surfaces))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
