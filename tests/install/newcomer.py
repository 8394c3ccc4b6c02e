"""Seconds from `uvx --from dist/….whl ftlab` to the page, and to the bundled model beside it.

Run as: python -m tests.install.newcomer [--uvx build/lock/bin/uvx] [--cache FOLDER] [--repeats 3]

Once with nothing in uv's cache, which downloads all packages; then with the packages in it, where
uv makes the environment anew from them (exits with 1 above 90 s); then with the environment, too.
`make dist` makes the wheel and `make lock` installs uv. What is set for uv in the environment
(UV_FIND_LINKS, UV_CONSTRAINT) holds. `--cache` names a cache that was filled before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from ftlab.models.bundled import bundled_folder
from ftlab.operations.health import why_not_free
from tests.processes import ROOT

LIMIT = 90.0
LONGEST = 1800.0
PORT = 7860  # that of `ftlab` without a command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--uvx", type=Path, default=ROOT / "build" / "lock" / "bin" / "uvx")
    parser.add_argument("--cache", type=Path, help="a filled cache of uv; default: an empty one")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    if busy := why_not_free("127.0.0.1", PORT):
        sys.exit(f"Port {PORT} is taken ({busy}); stop what listens there.")
    (wheel,) = (ROOT / "dist").glob("ftlab-*.whl")
    seconds = []
    with tempfile.TemporaryDirectory(prefix="ftlab-newcomer-", dir=ROOT / "build") as temporary:
        cache = options.cache or Path(temporary) / "uv"
        if options.cache is None:
            print(f"nothing in the cache: {_words(_start(options.uvx, wheel, cache))}", flush=True)
        for _ in range(options.repeats):
            for environments in cache.glob("environments-*"):
                shutil.rmtree(environments)
            took = _start(options.uvx, wheel, cache)
            seconds.append(took[0])
            print(f"packages in the cache: {_words(took)}", flush=True)
        took = _start(options.uvx, wheel, cache)
        print(f"environment in the cache: {_words(took)}", flush=True)
    return 0 if max(seconds, default=0.0) < LIMIT else 1


def _words(took: tuple[float, float]) -> str:
    return f"{took[0]:.1f} s to the page, {took[1]:.1f} s to the bundled model"


def _start(uvx: Path, wheel: Path, cache: Path) -> tuple[float, float]:
    """The seconds to the page and to the model, in a folder and a home of their own."""
    with tempfile.TemporaryDirectory(prefix="ftlab-newcomer-") as temporary:
        home = Path(temporary) / "home"
        given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment = given | {
            "UV_CACHE_DIR": str(cache),
            "UV_PYTHON": sys.executable,
            "FTLAB_HOME": str(home),
            "FTLAB_READY_SECONDS": "5",
        }
        began = time.monotonic()
        app = subprocess.Popen(
            [uvx, "--from", wheel, "ftlab"],
            cwd=temporary, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            page = _when(app, began, _answers)
            model = home / "models" / bundled_folder().name
            return page, _when(app, began, lambda: (model / "model.safetensors").is_file())
        finally:
            os.killpg(app.pid, signal.SIGINT)
            app.wait(60)


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=10) as answer:
            return b"ftlab" in answer.read()
    except OSError:
        return False


def _when(app: subprocess.Popen[bytes], began: float, is_so: Callable[[], bool]) -> float:
    while not is_so():
        if app.poll() is not None or time.monotonic() - began > LONGEST:
            sys.exit("The app did not get so far; its last lines say why.")
        time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
