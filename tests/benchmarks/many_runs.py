"""What ten thousand runs cost: to read and tabulate them, to look again, and to look for the next.

"without an index" is the first time of all, when `.ftlab/index.tsv` is written; "read and
tabulate" a new process later; the others are a later call while nothing has changed. The
dispatcher's look is that of a folder in which all these runs are queued for eight like devices,
each of which has a run, and a tenth as many more run on as many other machines: the median of five
looks. Exits with 1 if a figure is above its limit.

    python -m tests.benchmarks.many_runs --runs 10000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from ftlab.records.expected import Expected, write_expected
from ftlab.records.store import RunStore
from tests.benchmarks.product_rate import rate_now
from tests.fakes import make_run
from tests.simulated import Machine

LIMITS = {
    "without an index": 5.0, "read and tabulate": 2.0, "tabulate again": 0.5, "look again": 0.2,
    "the dispatcher looks": 0.2,
}  # fmt: skip
"""In seconds."""

_DEVICES = tuple(f"cuda:{number}" for number in range(8))
RUNS_A_SWEEP = 50
_METHODS = ("full", "lora", "qlora", "prompt_tuning")
_TEMPLATE = "20261125-120000-ab12"


def make_many(folder: Path, runs: int, devices: Sequence[str] = ()) -> None:
    """Writes so many runs in sweeps of `RUNS_A_SWEEP`, each with a base run, as copies of a few.

    With `devices` they are queued for these, else they are done.
    """
    kinds = ("base", *_METHODS)
    with tempfile.TemporaryDirectory() as apart:
        made = [make_run(Path(apart), kind, sweep_id=_TEMPLATE) for kind in kinds]
        names = ("spec.json", "result.json", "metrics.jsonl")
        if devices:
            names = ("spec.json", "expected.json")
            for one in made:
                spec = replace(one.spec(), device=devices[0], devices=tuple(devices))
                one.complete_spec(spec)
                write_expected(one, Expected(train=60.0))
        files = [{name: (one.path / name).read_bytes() for name in names} for one in made]
        ids = [one.run_id.encode() for one in made]
    for number in range(runs):
        sweep, place = divmod(number, RUNS_A_SWEEP)
        sweep_id = f"20261125-{sweep:06d}-ab12"
        kind = 0 if place == 0 else 1 + place % len(_METHODS)
        run_id = f"{sweep_id}-{place:02d}-{kinds[kind]}"
        target = folder / run_id
        target.mkdir(parents=True)
        for name, data in files[kind].items():
            data = data.replace(ids[kind], run_id.encode()).replace(
                _TEMPLATE.encode(), sweep_id.encode()
            )
            (target / name).write_bytes(data)


def give_to_others(folder: Path, runs: int) -> None:
    """Has so many queued runs be at work, each on a machine of its own."""
    for number, run_id in enumerate(sorted(os.listdir(folder))[-runs:]):
        told = {"node": f"node{number}", "boot": f"boot of node{number}"}
        lease = f"{number:012d}\n{json.dumps(told | {'mark': 'x'})}\n"
        (folder / run_id / "lease.1").write_text(lease)
        start = {"event": "start", "pid": 1, "process_started": 1.0} | told
        (folder / run_id / "metrics.jsonl").write_text(f"{json.dumps(start)}\n")


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(folder: Path, queue: Path) -> tuple[dict[str, float], int]:
    """Seconds of each act, and by how many bytes memory grew while the runs were looked at."""
    import pandas  # noqa: F401  # the app has imported it before the first page is asked for

    time.sleep(1.1)  # what has just been written is read again
    found = {"without an index": timed(lambda: RunStore(folder).table())}
    store = RunStore(folder)
    found["read and tabulate"] = timed(store.table)
    found["tabulate again"] = timed(store.table)
    found["look again"] = timed(store.runs)
    before = psutil.Process().memory_info().rss
    for _ in range(20):
        store.runs()
        store.table()
    grown = psutil.Process().memory_info().rss - before
    machine = Machine(defaultdict(lambda: 3600.0), _DEVICES)
    dispatcher = machine.dispatcher(queue)
    for _ in range(4):  # until the first runs say that they have begun
        dispatcher.step()
    assert len(machine.used) == len(_DEVICES)
    found["the dispatcher looks"] = statistics.median(timed(dispatcher.step) for _ in range(5))
    return found, grown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args(arguments)
    print(rate_now())
    with tempfile.TemporaryDirectory() as folder:
        done, queue = Path(folder) / "done", Path(folder) / "queue"
        make_many(done, options.runs)
        make_many(queue, options.runs + options.runs // 10, _DEVICES)
        give_to_others(queue, options.runs // 10)
        os.sync()
        found, grown = measure(done, queue)
    for name, seconds in found.items():
        print(f"{name}: {seconds:.2f} s, limit {LIMITS[name]} s")
    print(f"20 more looks: {grown / 1e6:+.1f} MB")
    return int(any(seconds > LIMITS[name] for name, seconds in found.items()))


if __name__ == "__main__":
    sys.exit(main())
