"""The web app: builds the page with header and tabs, and starts the server.

The web process never imports torch: training, measuring and generation run in separate processes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ftlab import __version__
from ftlab.basics.devices import AUTO, resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, recorded_folder
from ftlab.basics.log import app_log, note
from ftlab.basics.people import asked_by
from ftlab.jobs.control import control_folder, ensure_dispatcher
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.jobs.ready import Waker
from ftlab.operations.health import why_not_free
from ftlab.playground.client import PlaygroundClient
from ftlab.prediction.client import Predictor
from ftlab.prediction.question import of_a_demo, usual
from ftlab.records.removal import clear_removed
from ftlab.records.store import RunStore
from ftlab.tabs import api
from ftlab.tabs.address import build_address
from ftlab.tabs.agents import agents_route
from ftlab.tabs.context import AppContext, Links, banner_html, tabs
from ftlab.tabs.gate import AGENTS
from ftlab.tabs.header import header_html
from ftlab.tabs.kept import build_kept
from ftlab.tabs.live import News, changed_html, place
from ftlab.tabs.serve import NotedBlocks, Serving, calm, health_route
from ftlab.tabs.widgets import H

RESTORE_MODE = """() => {
  const mode = window.ft.kept.get('theme');
  if (mode && !location.search.includes('__theme')) {
    document.body.classList.toggle('dark', mode === 'dark');
  }
}"""
"""JavaScript, run on page load: restores the last choice of light or dark mode."""

FIT_FIGURES = "() => setTimeout(() => window.ft.fit(), 60)"
"""JavaScript, run when a tab is opened: a figure drawn in a hidden tab has a wrong width."""

_SANS = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
_MONO = gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700))

# (light, dark) values of the theme variables that have a dark-mode variant.
_PAIRS = {
    "body_background_fill": ("#f4f5f7", "#0d1015"),
    "background_fill_primary": ("#ffffff", "#14181f"),
    "background_fill_secondary": ("#f7f8fa", "#1a1f27"),
    "body_text_color": ("#1b2129", "#e4e8ed"),
    "body_text_color_subdued": ("#57606e", "#9ba6b4"),
    "border_color_primary": ("#dfe3e8", "#2a313b"),
    "block_background_fill": ("transparent", "transparent"),
    "block_border_width": ("0px", "0px"),
    "block_title_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "input_background_fill": ("#ffffff", "#0f1319"),
    "input_border_color": ("#848e9b", "#616d7c"),  # contrast 3:1, to make fields visible
    "input_border_color_focus": ("#4f46e5", "#8f8cff"),
    "input_placeholder_color": ("#6b7482", "#8e99a8"),
    "slider_color": ("#4f46e5", "#818cf8"),
    "button_border_width": ("1px", "1px"),
    "button_primary_background_fill": ("#4f46e5", "#5b54ec"),
    "button_secondary_background_fill": ("#ffffff", "#1a1f27"),
    "button_secondary_background_fill_hover": ("#f0f2f5", "#232a34"),
    "button_secondary_border_color": ("#cfd5dc", "#343d49"),
    "button_secondary_text_color": ("#1b2129", "#e4e8ed"),
    "button_cancel_text_color": ("#b3261e", "#ff9088"),
    "button_cancel_border_color": ("#e3b3b0", "#6b3532"),
    "button_cancel_background_fill": ("transparent", "transparent"),
    "checkbox_border_color": ("#848e9b", "#616d7c"),
    "checkbox_label_background_fill": ("transparent", "transparent"),
    "checkbox_label_border_width": ("0px", "0px"),
    "table_even_background_fill": ("#ffffff", "#14181f"),
    "table_odd_background_fill": ("#ffffff", "#14181f"),
    "table_border_color": ("#e6e9ee", "#262d36"),
    "accordion_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
}

_SINGLES = {
    "block_padding": "0px",
    "block_title_text_size": "12px",
    "block_title_text_weight": "400",
    "block_title_padding": "0 0 3px",
    "block_info_text_size": "12px",
    "layout_gap": "10px",
    "form_gap_width": "10px",
    "input_border_width": "1px",
    "input_padding": "6px 8px",
    "input_text_size": "13px",
    "color_accent": "#4f46e5",
    "section_header_text_size": "13px",
    "section_header_text_weight": "700",
    "button_primary_background_fill_hover": "#4338ca",
    "button_primary_border_color": "#4f46e5",
    "button_large_padding": "7px 16px",
    "button_large_text_size": "13px",
    "button_medium_padding": "5px 12px",
    "button_small_padding": "3px 10px",
    "button_small_text_size": "12px",
    "checkbox_label_padding": "4px 8px",
}


def make_theme() -> gr.themes.Base:
    """Returns the theme: dense, grey, one accent; uses local fonts, so nothing is downloaded."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.Size("1px", "2px", "4px", "6px", "8px", "8px", "12px"),
        text_size=gr.themes.Size("10px", "11px", "12px", "13px", "14px", "16px", "20px"),
        font=[_SANS, "system-ui", "sans-serif"],
        font_mono=[_MONO, "monospace"],
    )
    values = dict(_SINGLES)
    for name, (light, dark) in _PAIRS.items():
        values |= {name: light, f"{name}_dark": dark}
    return theme.set(**values)


def page_head() -> str:
    """Returns scripts and stylesheets for the page's head; `style.css` comes first.

    `css=` is not used: gradio rewrites it and drops `@container` and page rules inside `@media`.
    """
    assets = assets_folder()
    scripts = "".join(f"<script>{_read(path)}</script>" for path in sorted(assets.glob("*.js")))
    sheets = sorted(assets.glob("*.css"), key=lambda path: (path.name != "style.css", path.name))
    return scripts + "".join(f"<style>{_read(path)}</style>" for path in sheets)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def build_app(runs_folder: Path, access: Access = EVERYTHING) -> gr.Blocks:
    """Builds the whole page for one runs folder."""
    return build_page(_context(runs_folder, access))


def _context(runs_folder: Path, access: Access) -> AppContext:
    store = RunStore(runs_folder, recorded_folder())
    client = PlaygroundClient(runs_folder, access=access)
    predictor = Predictor(limits_of=of_a_demo if access.is_demo else usual)
    ready = Waker(is_off=access.is_demo)
    return AppContext(runs_folder, store, client, predictor=predictor, access=access, ready=ready)


_DELETE_UPLOADS = (3_600, 86_400)
"""Interval and age in seconds: every hour, uploads older than a day are deleted; all at exit."""


def build_page(context: AppContext) -> gr.Blocks:
    """Builds the whole page from the context."""
    with NotedBlocks(
        title="ftlab", fill_width=True, analytics_enabled=False, delete_cache=_DELETE_UPLOADS
    ) as page:
        _header(context)
        page.own_routes.append(context.live.route())
        row = gr.Tabs(elem_id="tabs", overflow_behavior="wrap")
        links = Links.between(row)  # outside: gradio counts each child of `gr.Tabs` as a tab
        with row:
            for spec in tabs():
                with gr.Tab(spec.name, id=spec.id, elem_id=f"tab-{spec.id}") as tab:
                    if context.access.is_demo:
                        H(banner_html(context.access.space))
                    spec.build(context, links)
                    build_kept(spec, links)
                tab.select(fn=None, js=FIT_FIGURES, api_visibility="private")
        build_address(links)
        api.add_endpoints(context)
    return page


def launch(
    runs_folder: Path, served: Serving, when_ready: Callable[[], None] | None = None
) -> None:
    """Serves the app until it is interrupted; calls `when_ready` once the page answers.

    Raises `FtlabError` if the address is not available, or if strangers would have access.
    """
    _check_address(served.host, served.port)
    served.check()
    with app_log(control_folder(runs_folder)):
        _serve(runs_folder, served, when_ready)


def _serve(runs_folder: Path, served: Serving, when_ready: Callable[[], None] | None) -> None:
    context = _context(runs_folder, served.access(runs_folder))
    with asked_by(served.people.person(None)):  # what is built is the same for all
        page = build_page(context)
    open_queue(page)
    _ensure_dispatcher(runs_folder)
    try:
        routes = [health_route(context.store)]
        if served.agents is not None:
            routes.append(agents_route(context))
        served.launch(page, routes, **launch_options())
        host = "127.0.0.1" if served.host in ("0.0.0.0", "::") else served.host
        address = page.share_url or f"http://{host}:{served.port}"
        if served.agents is not None:
            print(f"ftlab has tools for agents (MCP) at {address}{AGENTS}", flush=True)
        note("app started", version=__version__, host=served.host, port=served.port)
        print(f"ftlab is ready on {address} (runs in {runs_folder})", flush=True)
        if when_ready is not None:
            when_ready()
        context.ready.wake(resolve_device(AUTO).id)
        threading.Event().wait()
    except OSError as error:
        raise FtlabError(
            f"The app cannot be served on {served.host}:{served.port}: {error}"
        ) from None
    except KeyboardInterrupt:
        pass
    finally:
        note("app stopped")
        if page.is_running:
            page.close(verbose=False)
        context.playground.close()
        context.predictor.close()


def _ensure_dispatcher(runs_folder: Path) -> None:
    """Continues queued runs; if the dispatcher cannot start, the page is served anyway."""
    clear_removed(runs_folder)  # left by an app that was killed during a deletion
    try:
        ensure_dispatcher(runs_folder)
    except FtlabError as error:
        print(error, file=sys.stderr)


def open_queue(page: gr.Blocks) -> None:
    """Enables the event queue; no event can bypass it."""
    page.queue(default_concurrency_limit=8, api_open=False)
    calm(page)


def launch_options() -> dict[str, Any]:
    """Returns the options of `Blocks.launch` for the look and behaviour of the page."""
    return {
        "theme": make_theme(),
        "head": page_head(),
        "js": RESTORE_MODE,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "state_session_capacity": 300,  # kept after the page is closed
        "max_file_size": "100mb",
    }


def _header(context: AppContext) -> None:
    def read(query: Mapping[str, str]) -> News:
        top = header_html(context.store.recent_runs(), context.access.logs_in)
        return News(changed_html(query, top=top))

    H(place("top", header_html([], context.access.logs_in)), elem_id="top")
    context.live.add(read)


def _check_address(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise FtlabError(
            f"Port {port} must lie between 1 and 65535; choose another with --port or --host."
        )
    if reason := why_not_free(host, port):
        raise FtlabError(
            f"The app cannot be served on {host}:{port} ({reason}); "
            "choose another with --port or --host."
        )
