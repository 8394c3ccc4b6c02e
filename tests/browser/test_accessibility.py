"""axe-core on every tab, and every tab by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.basics.files import assets_folder
from ftlab.methods.registry import BASE_LOOK, METHODS
from ftlab.playground.held_out import AnswerScore
from ftlab.playground.text_difference import Piece
from ftlab.tabs import app as ui
from ftlab.tabs.playground.session import Pane, pane_html
from ftlab.tasks.spec import Message, ResultTable, ResultTables
from tests.browser.conftest import form_is_ready, painted, served
from tests.fakes import make_run, make_sweep, make_unreadable
from tests.tabs.page_fakes import page_context
from tests.tabs.playground.fakes import done, failed, lora

pytestmark = pytest.mark.browser
TABS = ("Experiment", "Results", "Compare", "Playground", "Plan", "Learn")
NEWER = "20261126-093000-ef56"
OLDER = "20261124-093000-cd34"

_WCAG = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
_COLOURS = {"type": "rule", "values": ["color-contrast"]}  # all that light and dark differ in
# The whole page once; then a tab alone, or a panel within it: the rest was looked at before.
_AXE = """([part, runOnly]) => {
  const panels = [...document.querySelectorAll('[role=tabpanel]')]
    .filter((panel) => panel.checkVisibility());
  const seen = { page: document, tab: panels.at(0), panel: panels.at(-1) }[part];
  return axe.run(seen, {runOnly, resultTypes: ['violations']})
  .then(({violations}) => violations
  .filter(({impact}) => ['serious', 'critical'].includes(impact))
  .flatMap(({id, nodes}) => nodes.map((node) =>
    `${id}: ${node.target.join(' ')}\\n  ${node.html.slice(0, 160)}\\n  ${node.failureSummary}`)));
}"""

# Resolves once the other colours have been painted.
_SWITCH = """(dark) => {
  window.ft.theme(dark);
  return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""

# What the Tab key should come to: of a group of radios one, of a listbox that is open its field.
_STOPS = """() => {
  const found = [...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex]')];
  window.stops = found.filter((one) => one.tabIndex >= 0 && !one.disabled && one.type !== 'file'
    && one.checkVisibility({checkVisibilityCSS: true, contentVisibilityAuto: true}));
  return window.stops.map((one, place) => one.type === 'radio' ? `radio ${one.name}` :
    `${place} ${one.tagName.toLowerCase()} ${one.getAttribute('aria-label') || one.id
      || one.labels?.[0]?.innerText || one.innerText || one.className}`.slice(0, 80));
}"""

# The stop that has the focus, whether it or what holds it wears a ring, and whether all of it is
# under something else (the header, the launch bar).
_FOCUSED = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  let ring = false;
  for (let box = one, up = 0; box && up < 4; box = box.parentElement, up += 1) {
    const {outlineStyle, outlineWidth} = getComputedStyle(box);
    ring ||= outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
  }
  const shown = one.type === 'radio' || one.type === 'checkbox' ? one.closest('label') ?? one : one;
  const {left, top, width, height} = shown.getBoundingClientRect();
  const seen = [[.5, .5], [.1, .1], [.9, .1], [.1, .9], [.9, .9]].some(([x, y]) => {
    const there = document.elementFromPoint(left + x * width, top + y * height);
    return there && (shown.contains(there) || there.contains(shown));
  });
  return {stop: window.stops.indexOf(one), name: one.outerHTML.slice(0, 90), ring, seen};
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("runs")
    recorded: Path = tmp_path_factory.mktemp("recorded")
    make_sweep(folder, seeds=(0, 1))
    make_sweep(recorded / "sweep", ("full", "lora"), sweep_id=OLDER)
    for method, status in (("full", "failed"), ("lora", "running"), ("qlora", "queued")):
        make_run(folder, method, status=status, sweep_id=NEWER)  # type: ignore[arg-type]
    make_unreadable(folder)
    context = page_context(folder, recorded=recorded)  # few rows: axe takes its time for each
    with served(ui.build_page(context), folder) as address:
        yield address


def test_axe_finds_nothing_serious_on_any_tab(browser: Browser, url: str) -> None:
    page = opened(browser, url)
    page.evaluate(AXE_SCRIPT)
    found: list[str] = []
    for name in TABS:
        look_at(page, name)
        part = "page" if name == TABS[0] else "tab"
        found += [f"{name}: {each}" for each in page.evaluate(_AXE, [part, _WCAG])]
    page.context.close()
    assert found == [], "\n".join(found)


@pytest.mark.slow
def test_axe_finds_nothing_serious_in_dark_nor_on_any_panel_of_a_tab(
    browser: Browser, url: str
) -> None:
    page = opened(browser, url)
    page.evaluate(AXE_SCRIPT)
    page.evaluate(_SWITCH, True)
    found: list[str] = []
    for name in TABS:
        look_at(page, name)
        found += [f"{name}: {each}" for each in page.evaluate(_AXE, ["tab", _COLOURS])]
        panels = page.locator("#tabs .tabitem").get_by_role("tab").locator("visible=true")
        for place in range(1, panels.count()):
            panel = panels.nth(place)
            panel.click()
            expect(panel).to_have_attribute("aria-selected", "true")
            painted(page)
            unfold(page)
            wrong = page.evaluate(_AXE, ["panel", _WCAG])
            found += [f"{name}, {panel.inner_text()}: {each}" for each in wrong]
    page.context.close()
    assert found == [], "\n".join(found)


@pytest.mark.slow
def test_the_tab_key_reaches_everything_and_shows_where_it_is(browser: Browser, url: str) -> None:
    page = opened(browser, url)
    found: list[str] = []
    for name in TABS:
        open_tab(page, name)
        unfold(page)
        painted(page)
        stops: list[str] = page.evaluate(_STOPS)
        visited = walk(page, len(stops))
        reached = {stops[at["stop"]] for at in visited if at["stop"] >= 0}
        found += [f"{name}: never reached: {stop}" for stop in stops if stop not in reached]
        for at in visited:
            found += [f"{name}: no ring: {at['name']}"] if not at["ring"] else []
            found += [f"{name}: out of sight: {at['name']}"] if not at["seen"] else []
    assert found == [], "\n".join(found)

    open_tab(page, "Playground")  # a list of options closes as the Tab key leaves its field
    page.get_by_label("Differences against").focus()
    expect(page.get_by_role("listbox")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Blind vote")).to_be_focused()
    expect(page.get_by_role("listbox")).to_have_count(0)
    page.context.close()


def walk(page: Page, stops: int) -> list[dict[str, Any]]:
    """Presses Tab from the page's first stop until it is there again, or the focus is nowhere.

    A trap takes all the presses, so that what lies behind it is never reached.
    """
    visited: list[dict[str, Any]] = []
    for _ in range(stops + 20):  # what scrolls is a stop too, where it has more than fits
        page.keyboard.press("Tab")
        now = page.evaluate(_FOCUSED)
        if now is None or (visited and now["stop"] == visited[0]["stop"]):
            break
        visited.append(now)
    return visited


def look_at(page: Page, name: str) -> None:
    """Opens a tab with all that it can show, unfolded."""
    open_tab(page, name)
    if name == "Results":
        page.locator("#runs").get_by_text("LoRA", exact=True).first.click()
        expect(page.locator(".ft-run")).to_be_visible()
    if name == "Playground":
        answered(page)
    unfold(page)
    painted(page)


def opened(browser: Browser, url: str) -> Page:
    """A page in light that is ready, and that nothing has been pressed on."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{url}?__theme=light&tab=experiment")
    # A colour on its way to another one is neither.
    page.add_style_tag(content="*, ::before, ::after { transition:none !important }")
    form_is_ready(page)
    expect(page.locator(".queue li").first).to_be_visible()
    return page


def open_tab(page: Page, name: str) -> None:
    """Opens a tab and waits until it is filled; the focus is nowhere, as on a page just loaded."""
    page.get_by_role("tab", name=name, exact=True).click()
    filled: dict[str, Locator] = {
        "Experiment": page.locator(".queue li"),
        "Results": page.locator("#runs").get_by_text("LoRA"),
        "Compare": page.locator(".js-plotly-plot .main-svg"),
        "Playground": page.locator("#pg-answer-2 .proof"),
        "Plan": page.locator("#plan-verdict .gauge"),
        "Learn": page.locator(".tabitem .ft-sheet"),
    }
    expect(filled[name].locator("visible=true").first).to_be_visible()
    painted(page)
    page.evaluate(
        """() => {
          document.body.tabIndex = -1;
          document.body.focus();
          document.body.removeAttribute('tabindex');
        }"""
    )


def unfold(page: Page) -> None:
    """Opens everything that is folded."""
    page.evaluate(
        """() => {
          document.querySelectorAll('button.label-wrap:not(.open)').forEach((one) => one.click());
          document.querySelectorAll('details').forEach((one) => { one.open = true; });
        }"""
    )


def answered(page: Page) -> None:
    """Puts answers into the panes, as they look once they are there: no engine is started."""
    expected, found = ResultTable(("name",), (("Ann",),), 0), ResultTable(("n",), ((3,),), 2)
    wrong = AnswerScore(0.0, "SQL score", "differs", ResultTables(expected, found, "", "SELECT"))
    right = AnswerScore(1.0, "SQL score", "runs, equal", None)
    chat = (Message("user", "How many singers?"), Message("assistant", "Ten."))
    panes = (
        Pane(lora(), done(0, "SELECT name"), score=wrong),
        Pane(lora(), done(1, "SELECT 1"), history=chat, score=right),
        Pane(
            lora(),
            done(2, "a c"),
            pieces=(Piece("same", "a "), Piece("added", "c"), Piece("removed", "b")),
        ),
        Pane(lora(), failed(3, "The engine ended before it had answered.")),
    )
    for number, pane in enumerate(panes, 1):
        place = page.locator(f"#pg-answer-{number} :has(> .proof)").last
        place.evaluate("(element, html) => { element.innerHTML = html; }", pane_html(pane))


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" or "#rgb", after WCAG 2.x."""
    digits = colour.lstrip("#")
    pairs = [c * 2 for c in digits] if len(digits) == 3 else re.findall("..", digits)
    parts = [int(pair, 16) / 255 for pair in pairs]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 to 21, after WCAG 2.x."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def tokens(mode: str) -> dict[str, str]:
    """The colours that style.css gives names to."""
    sheet = (assets_folder() / "style.css").read_text(encoding="utf-8")
    block = re.search(
        r"^%s \{(.*?)^\}" % (":root" if mode == "light" else r"\.dark"), sheet, re.S | re.M
    )
    assert block is not None
    return dict(re.findall(r"--(\w+):(#[0-9a-f]+)", block.group(1)))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_from_every_ground_at_aa(mode: str) -> None:
    named = tokens(mode)
    grounds = ("panel", "sunk", "mark", "ok2", "warn2", "bad2", "info2")
    pairs = [("muted", ground) for ground in grounds]
    pairs += [(text, f"{text}2") for text in ("ok", "warn", "bad", "info")]
    pairs += [
        (text, ground)
        for text in ("ok", "warn", "bad", "info", "pred", "figink")
        for ground in ("panel", "sunk")
    ]
    weak = {pair: contrast(named[pair[0]], named[pair[1]]) for pair in pairs}
    assert {pair: value for pair, value in weak.items() if value < 4.5} == {}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_ring_of_the_focus_and_the_border_of_a_field_stand_out(mode: str) -> None:
    named = tokens(mode)
    for ground in ("panel", "sunk"):
        assert contrast(named["accent"], named[ground]) >= 3
        assert contrast(named["field"], named[ground]) >= 3


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_colour_of_every_method_stands_out_from_the_figures_ground(mode: str) -> None:
    ground = tokens(mode)["panel"]
    for look in (BASE_LOOK, *(method.look for method in METHODS.values())):
        assert contrast(look.colour, ground) >= 3, look
