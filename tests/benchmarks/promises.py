"""Injects every fault and every hostile input that the tests have, and writes what came of it.

Run as: python -m tests.benchmarks.promises [--write docs/promises.md] [--load build/load.json]
        [--strangers build/strangers.json] [--counts FILE] [--tests PATH ...]

`--load` and `--strangers` take in what `tests.benchmarks.load` and `tests.benchmarks.strangers`
measured, with `--json`; `--counts` what a whole run of the
tests counted with `pytest --promises FILE`, instead of running the tests that count once more;
`--tests` runs those in these files alone. Nothing is written if a test failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ftlab.basics import units
from ftlab.basics.devices import list_devices
from tests.benchmarks.product_rate import ProductRate
from tests.benchmarks.strangers import SETTLES, Cost, table

ROOT = Path(__file__).parents[2]
_FUZZED = "fuzzed "


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document, as docs/promises.md")
    parser.add_argument("--load", type=Path, help="what tests.benchmarks.load measured, as JSON")
    parser.add_argument("--strangers", type=Path, help="what tests.benchmarks.strangers measured")
    parser.add_argument("--counts", type=Path, help="what pytest --promises wrote")
    parser.add_argument("--tests", nargs="*", default=(), help="only these files (all)")
    options = parser.parse_args(arguments)
    counts = _read(options.counts) if options.counts else _tested(options.tests)
    if counts is None or counts["failed"]:
        print("A promise was broken. Nothing is written.", file=sys.stderr)
        return 1
    load = _read(options.load) if options.load else None
    strangers = _read(options.strangers) if options.strangers else None
    text = document(counts, load, strangers)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    print(text)
    return 0


def _tested(files: Sequence[str]) -> Any:
    """The counts of the tests that inject or try something; `None` if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.json"
        tests = ("-m", "fault or hostile", "--promises", str(path), *files)
        done = subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, check=False)
        return None if done.returncode else _read(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def document(
    counts: Mapping[str, Any],
    load: Mapping[str, Any] | None,
    strangers: Mapping[str, Any] | None = None,
) -> str:
    """The page as Markdown. `counts` is what `tests/promises.py` writes."""
    areas: dict[str, int] = counts["hostile"]
    made = {name: count for name, count in areas.items() if name.startswith(_FUZZED)}
    hostile = {name: count for name, count in areas.items() if name not in made}
    lines = [
        "# What was tried, and what came of it",
        "",
        "Made by `make promises`, from tests that all passed: a fault counts once however many",
        "tests inject it, a hostile input each time it is given to the code that has to refuse it.",
        "What this machine has not is stood in for: a GPU's want of memory by its exception, the",
        f"kernel's kill by its counter. {list_devices()[0].label}, {date.today():%d %B %Y}.",
        "",
        "| what | tried | lost or let through |",
        "| --- | ---: | ---: |",
        f"| kinds of faults injected | {len(counts['faults'])} | 0 runs |",
        f"| hostile inputs | {sum(hostile.values()):,} | 0 |",
        f"| inputs made by fuzzing, harmless ones too | {sum(made.values()):,} | 0 |",
        *(_load_rows(load) if load else ()),
        *(_strangers_rows(strangers) if strangers else ()),
        "",
        "## Faults",
        "",
        *(f"- {fault}" for fault in counts["faults"]),
        "",
        "## Hostile inputs",
        "",
        "| area | inputs |",
        "| --- | ---: |",
        *(f"| {area} | {count:,} |" for area, count in hostile.items()),
        "",
        "## Fuzzed parsers",
        "",
        "Each gives a value or one sentence, never a traceback, and is not waited for.",
        "",
        "| what is parsed | inputs |",
        "| --- | ---: |",
        *(f"| {area.removeprefix(_FUZZED)} | {count:,} |" for area, count in made.items()),
    ]
    return "\n".join(lines) + "\n"


def _load_rows(load: Mapping[str, Any]) -> list[str]:
    _, most, _ = load["quantiles"]
    errors = len(load["errors"])
    sessions = f"{load['sessions']} browsers for {units.format_seconds(load['seconds'])}"
    start, settled, end = map(units.format_bytes, load["memory"])
    return [
        f"| polls of {sessions}, as a run logs steps | {load['polls']:,} | {errors} errors |",
        "",
        f"They took {units.format_share(load['share'])} of one core of the web process; 95 % were "
        f"answered within {most * 1000:.0f} ms. Its memory: {start} before, {settled} after a "
        f"minute, {end} at the end.",
    ]


def _strangers_rows(strangers: Mapping[str, Any]) -> list[str]:
    costs = [Cost(**one) for one in strangers["figures"]]
    rate = ProductRate(**strangers["product_rate"])
    return [
        "",
        "## What a stranger costs",
        "",
        "Each is done to an app that was started for it, by one visitor from one address. How long",
        "another visitor waited for `/healthz` at most, what the app and its workers computed and",
        f"held meanwhile, and what was left {SETTLES:g} s later. {rate}.",
        "",
        *table(costs),
        "",
        "What long answers leave is the model that the demo answers with: it stays for the next",
        "visitor, and goes after five minutes in which nobody asks.",
    ]


if __name__ == "__main__":
    sys.exit(main())
