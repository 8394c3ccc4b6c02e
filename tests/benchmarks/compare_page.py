"""Seconds from a click in the Compare tab to its figures painted, with 200 runs in one folder.

Run as: python -m tests.benchmarks.compare_page [--repeats N] [--variants 48] [--others 9800]

One sweep holds nearly all of the runs: 48 variants, 4 seeds each; `--others` adds runs in sweeps of
50, which are not looked at. Chromium's own clock is read,
from the click to the frame after the figures have the new data and are drawn: those of the first
screen, which the limit is for, and those further down, which follow by themselves. Exits with 1
above 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.benchmarks.many_runs import make_many
from tests.browser.conftest import App, find_chromium, free_port
from tests.fakes import make_run, make_sweep

LIMIT = 0.5
LARGE, SMALL = "20261130-093000-ef56", "20261101-093000-cd34"
OTHERS = ("full", "qlora", "prompt_tuning")
"""Beside LoRA, of which there is a variant a rank."""

_SEEDS = 4

# `ready` is JavaScript that says of the figures, from top to bottom, that they show what the click
# asked for.
_WATCH = """([ready, first]) => {
  const done = new Function('figures', `return ${ready}`);
  window.took = [null, null];
  document.addEventListener('pointerdown', () => {
    const began = performance.now();
    const look = () => {
      const all = [...document.querySelectorAll('.ft-compare .ft-open')]
        .filter((room) => room.offsetParent)
        .map((room) => room.querySelector('.js-plotly-plot'));
      const drawn = (figures) => figures.length && done(figures.filter(Boolean)) &&
        figures.every((figure) => figure?.querySelector('.main-svg .trace'));
      const now = [drawn(all.slice(0, first)), all.length >= 8 && drawn(all)];
      requestAnimationFrame(() => now.forEach((ready, i) => {
        if (ready) window.took[i] ??= (performance.now() - began) / 1000;
      }));
      if (!now[1]) setTimeout(look, 15);  // not at every frame: looking takes time as well
    };
    look();
  }, { once: true, capture: true });
}"""
_FIRST_SCREEN = 5  # the bars and the front


def make_folder(folder: Path, variants: int) -> None:
    """Two sweeps: one of so many variants with 4 seeds, and one of 4 methods with 2 seeds."""
    make_sweep(folder, sweep_id=SMALL, seeds=(0, 1), steps=60)
    make_sweep(folder, methods=OTHERS, sweep_id=LARGE, seeds=range(4))
    for rank in range(1, variants - len(OTHERS) + 1):
        for seed in range(_SEEDS):
            net = 1_000_000_000 + 10_000_000 * rank + 3_000_000 * seed
            measures = {
                "net_peak_memory_bytes": net,
                "peak_memory_bytes": 500_000_000 + net,
                "score_after": 0.3 + (61 * rank % 45) / 100 + seed / 100,
            }
            make_run(
                folder, "lora", sweep_id=LARGE, seed=seed, steps=60,
                hyperparameters={"r": rank}, measures=measures,
            )  # fmt: skip


def shows(sweep: str) -> str:
    """JavaScript: every figure holds runs of that sweep."""
    return (
        f"figures.every((figure) => figure.data.some((trace) => "
        f"String(trace.customdata?.[0] ?? trace.meta?.runs ?? '').includes('{sweep}')))"
    )


def title_has(words: str) -> str:
    """JavaScript: some figure's x axis is called that."""
    return f"figures.some((f) => (f.layout.xaxis?.title?.text ?? '').includes('{words}'))"


def timed(
    page: Page, ready: str, click: Callable[[], None], figures: int = _FIRST_SCREEN
) -> tuple[float, float]:
    """Seconds until so many figures, and until all, show what the click asked for."""
    page.evaluate(_WATCH, [ready, figures])
    click()
    page.wait_for_function("!window.took.includes(null)", timeout=60_000, polling=200)
    first, everything = page.evaluate("window.took")
    return float(first), float(everything)


def pick(page: Page, dropdown: str, option: str) -> Callable[[], None]:
    """Opens the dropdown now, and gives back the click on its option: typed, as of many sweeps only
    those that can be seen are in the page."""
    field = page.locator(f"{dropdown} input")
    field.click()
    field.press("Control+a")
    field.press_sequentially(option)
    chosen = page.get_by_role("option").filter(has_text=option).first
    chosen.wait_for()
    return chosen.click


def visit(page: Page, url: str, rest: int) -> dict[str, tuple[float, float]]:
    """What one visitor waits for, with so many milliseconds of rest between the clicks."""
    page.goto(f"{url}?tab=experiment")
    tab = page.get_by_role("tab", name="Compare")
    tab.wait_for()
    page.wait_for_timeout(rest + 1000)  # the page has loaded and is at rest
    took = {"tab, first click": timed(page, shows(LARGE), tab.click)}
    page.wait_for_timeout(rest)
    page.get_by_role("tab", name="Results").click()
    page.wait_for_timeout(rest)
    took["tab, second click"] = timed(page, shows(LARGE), tab.click)
    page.wait_for_timeout(rest)
    for words, ready, option, dropdown in (
        ("another sweep", shows(SMALL), "cd34", "#compare-sweep"),
        ("the large sweep", shows(LARGE), "ef56", "#compare-sweep"),
        ("a measure", title_has("trainable parameters"), "Trainable parameters", "#compare-x"),
    ):
        took[words] = timed(page, ready, pick(page, dropdown, option))
        page.wait_for_timeout(rest)
    seconds = page.locator("#compare-loss-x label").filter(has_text="Seconds")
    took["axis of the loss"] = timed(page, title_has("seconds of training"), seconds.click, 8)
    return took


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", type=int, default=48, help="of the large sweep, at least 4")
    parser.add_argument("--rest", type=int, default=1500, help="milliseconds between two clicks")
    parser.add_argument("--others", type=int, default=0, help="runs of older sweeps")
    options = parser.parse_args(arguments)
    app = App(Path(tempfile.mkdtemp()), free_port())
    make_folder(app.runs, options.variants)
    if options.others:
        make_many(app.runs, options.others)
    app.start()
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
            )
            for _ in range(options.repeats):
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                for name, seconds in visit(context.new_page(), app.url, options.rest).items():
                    found.setdefault(name, []).append(seconds)
                context.close()
            browser.close()
    finally:
        app.stop()
    slowest = 0.0
    for name, took in found.items():
        first, everything = (statistics.median(column) for column in zip(*took, strict=True))
        worst = max(seconds for seconds, _ in took)
        slowest = max(slowest, first)
        print(
            f"{name:18} median {first:.2f} s, worst {worst:.2f} s; all figures {everything:.2f} s"
        )
    print(f"slowest median {slowest:.2f} s, limit {LIMIT} s")
    return 0 if slowest < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
