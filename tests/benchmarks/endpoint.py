"""The endpoint: clients with an adapter each, together against one after another.

Run as: python -m tests.benchmarks.endpoint [--clients 8] [--repeats 5] [--new-tokens 64]
        [--precision fp32] [--model FOLDER] [--json FILE]

As many LoRA adapters as clients (rank 8 on all linear layers, random) on the bundled model behind
`python -m ftlab serve`, each asked another question by openai's client, greedily and as a stream:
all at once, and each after the end of the one before, turn about. Prints every time, and ends with
status 1 if the median of the ratios is above 0.35, or, in fp32, a text differs. About five minutes
on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
from transformers.utils import logging

from ftlab.basics.processes import python_environment
from ftlab.models.libraries import prepare_for_libraries
from ftlab.tasks.registry import TASKS, bundled_data
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.side_by_side import Bench
from tests.browser.conftest import free_port
from tests.waiting import wait_until

MOST = 0.35
"""Of the time of one after another, on two cores."""


@contextmanager
def endpoint(runs: Path, names: Sequence[str], precision: str) -> Iterator[openai.OpenAI]:
    port = free_port()
    command = [
        sys.executable, "-m", "ftlab", "serve", "--runs", ",".join(names), "--runs-dir", str(runs),
        "--precision", precision, "--port", str(port),
    ]  # fmt: skip
    apart = {"FTLAB_LOCKS": str(runs / "locks")}  # else it would give way to this machine's runs
    with subprocess.Popen(command, env=python_environment() | apart) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/healthz"))
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=1800) as client:
                yield client
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def asker(client: openai.OpenAI, new_tokens: int) -> Callable[[tuple[str, str]], str]:
    def ask(one: tuple[str, str]) -> str:
        model, prompt = one
        chunks = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=new_tokens,
            stream=True,
        )
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    return ask


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    logging.disable_progress_bar()
    questions = [e.question for e in bundled_data(TASKS["sql"]).held_out[: options.clients]]
    rows, differing = [], 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.clients) as pool:
        bench = Bench(Path(folder), questions, options.model)
        names = [bench.run("lora", seed) for seed in range(1, options.clients + 1)]
        asked = list(zip(names, questions, strict=True))
        with endpoint(Path(folder), names, options.precision) as client:
            ask = asker(client, options.new_tokens)
            list(pool.map(asker(client, 2), asked))  # loads the base and the adapters
            for _ in range(options.repeats):
                began = time.perf_counter()
                alone = [ask(one) for one in asked]
                between = time.perf_counter()
                together = list(pool.map(ask, asked))
                ended = time.perf_counter()
                differing = sum(a != b for a, b in zip(alone, together, strict=True))
                rows.append({"alone": between - began, "together": ended - between})
                print(
                    f"one after another {between - began:.2f} s, together {ended - between:.2f} s: "
                    f"{rows[-1]['together'] / rows[-1]['alone']:.2f}x; {differing} of "
                    f"{len(asked)} texts differ",
                    flush=True,
                )
    ratio = statistics.median(row["together"] / row["alone"] for row in rows)
    good = ratio <= MOST and not (differing and options.precision == "fp32")
    print(
        f"{'met   ' if good else 'MISSED'} {options.clients} clients with an adapter each in "
        f"{options.precision}: {ratio:.2f}x (at most {MOST})"
    )
    if options.json:
        figures = {"ratio": ratio, "differing": differing, "seconds": rows}
        write_figures(options.json, figures, rate)
    return int(not good)


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
