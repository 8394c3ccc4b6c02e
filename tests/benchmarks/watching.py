"""What watching a running sweep costs: CPU time of the browser and of the web process.

Run as: python -m tests.benchmarks.watching [--seconds 30] [--settle 20] [--pace 0.5] [--views …]
        [--real 0] [--steps 30] [--model FOLDER] [--json FILE]

The app is a process of its own, on a sweep with one run that trains: this process writes its
metrics, a step every `--pace` seconds, as a worker does. A headless Chromium without a GPU opens
the page. Each view is watched for `--seconds`: the CPU time of all of Chromium's processes and that
of the web process, in percent of one core. "empty" is an empty page; "hidden" is the Experiment tab
of a page that says that it is hidden (headless Chromium shows all its tabs and goes on painting);
all others are tabs.

`--real N` trains N LoRA runs with the page open and N with it closed, turn about, and compares
their seconds of training.

Exits with 1 if the Experiment tab takes more than 3 % of a core in the browser or 2 % in the web
process, or if a watched run takes more than 1.05 times as long.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ftlab.jobs.control import dispatcher_lock
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.records.run import RunDirectory
from ftlab.settings.training import TrainingSettings
from tests.benchmarks.worker import run_worker
from tests.browser.conftest import HAS_LAUNCHED, HIDE, find_chromium
from tests.fakes import make_run, make_sweep, plausible_losses
from tests.processes import App

MOST_BROWSER, MOST_WEB = 0.03, 0.02  # of one core, on the Experiment tab
MOST_SLOWER = 1.05
VIEWS = ("empty", "experiment", "hidden", "results", "compare", "playground", "plan", "learn")
_STEPS, _DONE = 2000, 15


@dataclass(frozen=True)
class Watched:
    """CPU time of the browser and of the web process while a view was shown, in cores."""

    view: str
    browser: float
    web: float

    def __str__(self) -> str:
        return f"{self.view:10}  browser {self.browser:6.1%}  web process {self.web:6.1%} of a core"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--settle", type=float, default=20, help="seconds after opening a page")
    parser.add_argument("--pace", type=float, default=0.5, help="seconds of a step")
    parser.add_argument("--views", nargs="*", choices=VIEWS, default=VIEWS)
    parser.add_argument("--real", type=int, default=0, metavar="N", help="runs, open and closed")
    parser.add_argument("--steps", type=int, default=30, help="of each of these runs")
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    watched: list[Watched] = []
    slower = 1.0
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        with app_without_dispatcher() as app:
            run = running_sweep(app.runs)
            with steps_written(run, options.pace):
                for view in options.views:
                    watched.append(watch(browser, app, view, options.seconds, options.settle))
                    print(watched[-1], flush=True)
        if options.real:
            with app_without_dispatcher() as app:
                settings = TrainingSettings(steps=options.steps, eval_examples=1)
                model = resolve_model(options.model, print).reference.name
                slower = compare_runs(browser, app, options.real, settings, model, options.settle)
        browser.close()
    if options.json:
        figures = {"views": [asdict(one) for one in watched], "slower": slower}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    costs = [one for one in watched if one.view == "experiment"]
    good = all(one.browser <= MOST_BROWSER and one.web <= MOST_WEB for one in costs)
    return 0 if good and slower <= MOST_SLOWER else 1


@contextmanager
def app_without_dispatcher() -> Iterator[App]:
    """The app on an empty folder of runs, as if a dispatcher were at work: nothing starts."""
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder))
        busy = dispatcher_lock(app.runs)
        assert busy.try_acquire()
        app.start()
        try:
            yield app
        finally:
            app.stop()
            busy.release()


def running_sweep(folder: Path) -> RunDirectory:
    """Base and full are done, LoRA trains, and two more runs wait. Returns the one that trains."""
    make_sweep(folder, ["full"])
    losses = plausible_losses(1.3, _STEPS)[:_DONE]
    run = make_run(folder, "lora", "running", steps=_STEPS, losses=losses)
    for method in ("qlora", "prompt_tuning"):
        make_run(folder, method, "queued")
    return run


@contextmanager
def steps_written(run: RunDirectory, pace: float) -> Iterator[None]:
    """Meanwhile the run logs a step every `pace` seconds."""
    ended = threading.Event()

    def write() -> None:
        step = _DONE
        while not ended.wait(pace):
            step += 1
            event = {
                "event": "step", "step": step, "loss": 1.3 + random.gauss(0, 0.05),
                "learning_rate": 1e-3, "tokens": 700, "seconds": pace,
                "elapsed": 2.1 + pace * step, "at": round(time.time(), 3),
            }  # fmt: skip
            with run.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def watch(browser: Browser, app: App, view: str, seconds: float, settle: float) -> Watched:
    """Opens the view as a new visitor and waits until it has settled; then measures."""
    assert app.process is not None
    web = psutil.Process(app.process.pid)
    with opened(browser, app, view) as page:
        page.wait_for_timeout(1000 * settle)
        since = [used(chromium_processes), used(lambda: [web])]
        page.wait_for_timeout(1000 * seconds)
        return Watched(view, *(share() for share in since))


@contextmanager
def opened(browser: Browser, app: App, view: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(HAS_LAUNCHED)
    page = context.new_page()
    if view != "empty":
        tab = "experiment" if view == "hidden" else view
        page.goto(f"{app.url}?tab=experiment")
        expect(page.locator("#go")).to_contain_text("Launch", timeout=60_000)
        page.get_by_role("button", name="Tick none").click()  # nothing is predicted meanwhile
        expect(page.locator("#go")).to_have_text("Launch", timeout=60_000)
        page.locator(f"#tab-{tab}-button").click()
    if view == "hidden":
        page.evaluate(HIDE)
    yield page
    context.close()


def chromium_processes() -> list[psutil.Process]:
    """All processes of the browser, but not the driver that started it."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "chrom" in child.name()]


def used(processes: Callable[[], Sequence[psutil.Process]]) -> Callable[[], float]:
    """Gives a function: the cores that the processes have used since this call."""
    began, before = time.monotonic(), cpu_seconds(processes())

    def share() -> float:
        after = cpu_seconds(processes())
        spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
        return spent / (time.monotonic() - began)

    return share


def cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, float]:
    return {one.pid: sum(one.cpu_times()[:2]) for one in processes if one.is_running()}


def compare_runs(
    browser: Browser, app: App, count: int, settings: TrainingSettings, model: str, settle: float
) -> float:
    """Trains with the page open and closed, turn about; the ratio of the median seconds."""
    took: dict[str, list[float]] = {"empty": [], "experiment": []}
    for number in range(2 * count):
        view = ("empty", "experiment")[(number + number // 2) % 2]
        with opened(browser, app, view) as page:
            page.wait_for_timeout(1000 * settle)
            seconds = run_worker("lora", settings, app.runs, model=model).measures.train_seconds
        assert seconds is not None
        took[view].append(seconds)
        words = "page open" if view == "experiment" else "page closed"
        print(f"{words:11} {seconds:6.2f} s of training", flush=True)
    slower = statistics.median(took["experiment"]) / statistics.median(took["empty"])
    print(f"watched     {slower:.2f}x as long")
    return slower


if __name__ == "__main__":
    sys.exit(main())
