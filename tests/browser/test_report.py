"""A report opened as a file: it draws under its own policy, and runs nothing that anybody said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from ftlab.records.run import Annotations, write_annotations
from ftlab.share.page import standalone
from ftlab.share.report import sweep_report
from tests.fakes import make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAPER = {"width": 718, "height": 1000}  # A4 within its margins, in CSS pixels


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    yield context
    context.close()


class Opened:
    """A file in the browser, and what it did: messages of errors, and addresses it asked for."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.refused: dict[str, str | None] = {}
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "requestfailed", lambda request: self.refused.update({request.url: request.failure})
        )
        self.page.goto(path.as_uri())

    def wait_for_figures(self) -> int:
        """How many figures there are, once all are drawn."""
        count = self.page.locator(".fig .plot").count()
        self.page.wait_for_function(
            "n => document.querySelectorAll('.plot.js-plotly-plot .main-svg[viewBox]').length >= n",
            arg=count,
        )
        return count


def report_of(folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(sweep_report(data_of(folder)), encoding="utf-8")
    return path


def test_figures_are_drawn_under_the_policy_and_nothing_is_fetched(
    context: BrowserContext, tmp_path: Path
) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    path = report_of(tmp_path)
    opened = Opened(context, path)
    assert opened.wait_for_figures() == 8
    assert opened.page.locator(".plot .barlayer .point").count() >= 16
    assert opened.page.locator(".plot .scatterlayer .js-line").count() >= 4
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]


def test_nothing_that_anybody_said_runs(context: BrowserContext, tmp_path: Path) -> None:
    make_run(tmp_path, "full", model=HOSTILE)
    lora = make_run(
        tmp_path, "lora", hyperparameters={"targets": HOSTILE}, notes=[HOSTILE],
        samples=[{"prompt": [{"role": HOSTILE, "content": HOSTILE}], "reference": HOSTILE,
                  "answer_after": HOSTILE, "verdict_after": HOSTILE}],
    )  # fmt: skip
    write_annotations(lora, Annotations(tags=(HOSTILE,), note=HOSTILE[:2000]))
    make_run(tmp_path, "qlora", "failed", reason=HOSTILE)
    result = lora.result_file
    result.write_text(result.read_text().replace("AMD EPYC 7B13", "<img src=x onerror=hit()>"))
    opened = Opened(context, report_of(tmp_path))
    page = opened.page
    opened.wait_for_figures()
    for plot in page.locator(".plot .points path").all()[:6]:
        plot.hover(force=True)  # names stand in the boxes that a pointer opens as well
    assert page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0
    assert page.locator("main a[href], main [onerror]").count() == 0
    assert page.evaluate(
        "[...document.querySelectorAll('a')].filter(a => /script/.test("
        "a.getAttribute('xlink:href') || a.getAttribute('href') || '')).length"
    ) == 0  # fmt: skip
    assert opened.errors == []
    assert len(opened.requests) == 1


def test_what_slipped_through_unescaped_would_still_not_run(
    context: BrowserContext, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    section = (
        "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
        "<img src='https://example.org/x.png'><b onclick='window.hit = 1'>press</b>"
        "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>"
        "<form action='https://example.org/'><button>go</button></form>"
    )
    path.write_text(standalone("title", [section], scripts=["window.ours = 1"]), encoding="utf-8")
    opened = Opened(context, path)
    opened.page.get_by_text("press").click()
    opened.page.evaluate("document.querySelector('form button').click()")
    assert opened.page.evaluate("[window.ours, window.hit]") == [1, None]
    assert "https://example.org/x.png" in opened.refused
    assert set(opened.refused.values()) == {"csp"}  # by the policy, so nothing was sent
    assert set(opened.requests) == {path.as_uri(), *opened.refused}


def test_on_paper_no_figure_is_cut(context: BrowserContext, tmp_path: Path) -> None:
    make_sweep(tmp_path)
    opened = Opened(context, report_of(tmp_path))
    opened.wait_for_figures()
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert len(page.pdf(format="A4")) > 20_000
    page.set_viewport_size(PAPER)
    boxes = page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg, .card.light svg')].map(svg => "
        "{ const b = svg.getBoundingClientRect(); return [b.left, b.right, b.height]; })"
    )
    assert len(boxes) > 8
    for left, right, height in boxes:
        assert left >= 0
        assert right <= PAPER["width"]
        assert height > 60
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 33, 41)"
    assert page.locator(".card.dark").is_hidden()


def test_it_fits_a_phone_in_light_and_dark(context: BrowserContext, tmp_path: Path) -> None:
    make_sweep(tmp_path)
    opened = Opened(context, report_of(tmp_path))
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 800})
    opened.wait_for_figures()
    page.wait_for_function("() => document.documentElement.scrollWidth <= 390")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.locator(f".card.{scheme}").is_visible()
        assert page.locator(".card:visible").count() == 1


def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    # axe is put into the page as a script, which the report's own policy would refuse.
    context = browser.new_context(bypass_csp=True, viewport={"width": 1440, "height": 900})
    opened = Opened(context, report_of(tmp_path))
    opened.wait_for_figures()
    for scheme, width in (("light", 1440), ("dark", 390)):
        opened.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        opened.page.set_viewport_size({"width": width, "height": 900})
        found = Axe().run(opened.page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found
                   if one["impact"] in ("serious", "critical")]  # fmt: skip
        assert serious == [], (scheme, width)
    context.close()
