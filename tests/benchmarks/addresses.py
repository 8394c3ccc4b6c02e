"""Seconds from a link to its view, in Chromium, and how much later that is than the bare page.

Run as: python -m tests.benchmarks.addresses [--repeats N] [--views NAME ...] [--line MBIT]

`--views` without a name opens the bare page alone; `--line` is a line of so many Mbit a second that
takes 40 ms there and back. Each repeat opens the bare page and then every view, each as a new
visitor of one app. The bare page is open once Experiment says what Launch would start; a view once
it shows what the address names. Exits with 1 if the median of a view is more than 0.5 s above that
of the bare page.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import HAS_LAUNCHED, App, find_chromium, free_port
from tests.fakes import make_sweep

LATER = 0.5
SWEEP = "20261130-093000-ef56"
BARE = ("", "/Launch \\d+ runs?/.test(at('#go')?.textContent)")

VIEWS = {
    "compare": (f"sweep={SWEEP}", f"""seen('.savings[data-address="sweep={SWEEP}"]')"""),
    "run": (f"run={SWEEP}-03-lora", "at('#run-top [data-address]')"),
    "search": ("search=lora", "at('#results-text :is(input, textarea)')?.value === 'lora'"),
    "playground": (f"panes=base,{SWEEP}-03-lora", "/LoRA/.test(at('#pg-answer-2')?.textContent)"),
    "plan": ("batch=2", "at('#f-plan-batch input')?.value === '2'"),
    "learn": ("lesson=merging", "chosen('Merging')"),
}
"""By name: the parameters of the address, and the JavaScript condition that the view is there."""
TABS = {"run": "results", "search": "results"}

_SEEN = """() => {
  const at = (selector) => document.querySelector(selector);
  const seen = (selector) => at(selector)?.checkVisibility();
  const chosen = (name) => [...document.querySelectorAll('[role=tab][aria-selected=true]')]
    .some((tab) => tab.textContent.trim() === name);
  return (%s) ? performance.now() / 1000 : false;
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--views", nargs="*", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--line", type=float, metavar="MBIT", help="a second, with 40 ms delay")
    options = parser.parse_args(arguments)
    measured: dict[str, list[float]] = {name: [] for name in ("bare", *options.views)}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        make_sweep(Path(folder), ("full", "lora", "qlora"), sweep_id=SWEEP)
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        app = App(Path(folder), free_port())
        app.start()
        try:
            opened(browser, app, *BARE, options.line)  # warms the caches of the app
            for _ in range(options.repeats):
                for name, times in measured.items():
                    given, condition = VIEWS.get(name, BARE)
                    query = f"?tab={TABS.get(name, name)}&{given}" if given else ""
                    times.append(opened(browser, app, query, condition, options.line))
        finally:
            app.stop()
            browser.close()
    bare = statistics.median(measured["bare"])
    later = {name: statistics.median(times) - bare for name, times in measured.items()}
    for name, times in measured.items():
        print(f"{name}: median {statistics.median(times):.2f} s, {later[name]:+.2f} s")
    return int(max(later.values()) > LATER)


def opened(browser: Browser, app: App, query: str, condition: str, line: float | None) -> float:
    """Seconds from the navigation of a new visitor until the condition holds."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(HAS_LAUNCHED)
    page = context.new_page()
    if line is not None:
        rate = line * 1e6 / 8  # bytes a second
        limits = {"latency": 40, "downloadThroughput": rate, "uploadThroughput": rate}
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", {"offline": False, **limits})
    page.goto(f"{app.url}{query}", wait_until="commit")
    seconds = page.wait_for_function(_SEEN % condition, timeout=60_000).json_value()
    context.close()
    return float(seconds)


if __name__ == "__main__":
    sys.exit(main())
