"""Checks a machine with a GPU: real runs, measured and held against what was predicted.

Run as: python -m tests.gpu.check [--device cuda:0|cpu] [--json FILE] [--write docs/gpu.md]

Needs no network and no real weights: random models of real shapes stand in, since memory and speed
do not depend on the values. Each check runs in a process of its own, so that none ends the others;
a package that is missing is a row that names it. Ends with status 1 if a row is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ftlab.basics.processes import python_environment
from ftlab.methods.registry import METHODS
from ftlab.models.libraries import prepare_for_libraries
from tests.gpu.bench import Bench, Row, has, row
from tests.gpu.checks import CHECKS, Check

MINUTES = 8.0
_LOG_TAIL = 3_000  # characters
BEGIN, END = "<!-- made by `python -m tests.gpu.check` -->", "<!-- end of the check -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 (default), or cpu")
    parser.add_argument("--size", choices=("tiny", "135M"), help="of the model (cpu: tiny)")
    parser.add_argument("--only", metavar="A,B", help=", ".join(check.name for check in CHECKS))
    parser.add_argument(
        "--methods", metavar="A,B", default=",".join(METHODS), help="for the check of every method"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the tables into it")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    size = options.size or ("tiny" if options.device == "cpu" else "135M")
    methods = tuple(options.methods.split(","))
    if options.child:
        name, folder = options.child
        return child(name, Bench(Path(folder), options.device, size, methods))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.device, size, methods)
        rows = list(_told(examine(bench, chosen(options.only), options.minutes)))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n", "utf-8")
    if options.write:
        write(options.write, rows)
    wrong = [found for found in rows if found.ok is False]
    print(f"{len(rows)} rows, {len(wrong)} wrong, {sum(r.ok is None for r in rows)} not run")
    return int(bool(wrong))


def chosen(names: str | None) -> list[Check]:
    """The checks of those names, in their own order; all where none is named."""
    if names is None:
        return list(CHECKS)
    wanted = [name.strip() for name in names.split(",")]
    known = {check.name for check in CHECKS}
    for name in wanted:
        if name not in known:
            raise SystemExit(f"There is no check '{name}'; checks: {', '.join(sorted(known))}.")
    return [check for check in CHECKS if check.name in wanted]


def examine(bench: Bench, checks: Iterable[Check], minutes: float) -> Iterator[Row]:
    """Every row as soon as it is there; what is not run is a row with its reason."""
    ends = time.monotonic() + 60 * minutes
    for check in checks:
        missing = [package for package in check.needs if not has(package)]
        left = ends - time.monotonic()
        if bench.is_cpu and not check.on_cpu:
            yield row(check.name, check.why, None, "is about a GPU")
        elif missing:
            yield row(check.name, check.why, None, f"needs {', '.join(missing)}: not installed")
        elif left < 5:
            yield row(check.name, check.why, None, f"the {minutes:g} minutes are over")
        else:
            yield from in_a_process(check, bench, min(left, check.seconds))


def in_a_process(check: Check, bench: Bench, seconds: float) -> Iterator[Row]:
    """The rows that a process of its own gives within that time."""
    began = time.monotonic()
    command = [
        sys.executable, "-m", "tests.gpu.check", "--device", bench.device_id, "--size", bench.size,
        "--methods", ",".join(bench.methods), "--child", check.name, str(bench.folder),
    ]  # fmt: skip
    log = bench.folder / f"{check.name.replace(' ', '-')}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=python_environment(),
            start_new_session=True,
        )  # fmt: skip
    ending = _end_later(process, seconds)
    good = True
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found = Row(**json.loads(line))
            good = good and found.ok is not False
            yield found
    process.wait()
    ending.cancel()
    took = time.monotonic() - began
    if took >= seconds:
        yield row(check.name, check.why, False, f"not done within {seconds:.0f} s; ended")
    elif process.returncode:
        yield row(check.name, check.why, False, f"ended with status {process.returncode}")
    print(f"  {check.name}: {took:.0f} s", file=sys.stderr, flush=True)
    if not good or process.returncode:
        print(log.read_text(errors="replace")[-_LOG_TAIL:], file=sys.stderr, flush=True)


def child(name: str, bench: Bench) -> int:
    """One check in this process; rows go to standard output, one JSON object a line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print as they like
    os.environ["FTLAB_LOCKS"] = str(bench.folder / "locks")
    os.environ["HF_HUB_OFFLINE"] = "1"
    prepare_for_libraries(bench.device_id)
    check = next(check for check in CHECKS if check.name == name)
    with answers:
        try:
            for found in check.run(bench):
                answers.write(json.dumps(asdict(found), default=str) + "\n")
                answers.flush()
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            said = f"{type(error).__name__}: {lines[0][:300]}"
            answers.write(json.dumps(asdict(row(name, check.why, False, said))) + "\n")
    return 0


def write(path: Path, rows: Sequence[Row]) -> None:
    """Puts the tables between the two marks of the document, or at its end."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, mark, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if mark else "\n"
    path.write_text(f"{before}{BEGIN}\n{tables(rows)}\n{END}{after}", encoding="utf-8")


def tables(rows: Sequence[Row]) -> str:
    """Markdown: the machine, the four methods on the large model, and every row."""
    machine = next((r.found for r in rows if (r.check, r.what) == ("environment", "device")), "?")
    lines = [f"Machine: {machine}.", ""]
    methods = [r for r in rows if r.check == "large" and r.figures]
    if methods:
        lines += ["| method | trainable | allocated | reserved | a step | file |",
                  "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for found in methods:
            f = found.figures
            lines.append(
                f"| {found.what} | {f['trainable']:,} | {f['allocated'] / 1e9:.2f} GB | "
                f"{f['reserved'] / 1e9:.2f} GB | {f['step_seconds'] * 1000:.0f} ms | "
                f"{f['file'] / 1e6:.1f} MB |"
            )
        lines.append("")
    lines += ["| check | what | | found |", "| --- | --- | --- | --- |"]
    for found in rows:
        cells = [found.check, found.what, found.mark, found.found.replace("|", "/")]
        lines.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    return "\n".join(lines)


def _told(rows: Iterable[Row]) -> Iterator[Row]:
    for found in rows:
        print(f"{found.mark:8} {found.check:14} {found.what:44} {found.found}", flush=True)
        yield found


def _end_later(process: subprocess.Popen[str], seconds: float) -> threading.Timer:
    """Ends the check with all that it started, once its time is over."""

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


if __name__ == "__main__":
    sys.exit(main())
