"""The web app: the header, the tabs, and how it is served.

The web process never imports torch: training, measuring and generation live in processes of
their own.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

# Before gradio is imported: nothing is reported to anybody.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Gradio sums up its last 10,000 events in a pandas table after every single one, for a page of
# statistics that is not served here; of 50 browsers' polls that alone took a whole core.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

import gradio as gr

from ftlab import __version__
from ftlab.access import EVERYTHING, Access
from ftlab.errors import FtlabError
from ftlab.operations.address import why_not_free
from ftlab.operations.log import app_log, note
from ftlab.paths import recorded_folder
from ftlab.playground.client import PlaygroundClient
from ftlab.prediction.client import Predictor
from ftlab.prediction.limits import of_a_demo, usual
from ftlab.runs.control import control_folder, ensure_dispatcher
from ftlab.runs.removal import clear_removed
from ftlab.runs.store import RunStore
from ftlab.ui import api, theme
from ftlab.ui.compare import tab as compare
from ftlab.ui.context import AppContext
from ftlab.ui.demo import banner_html
from ftlab.ui.events import QUIET
from ftlab.ui.experiment import tab as experiment
from ftlab.ui.header import header_html
from ftlab.ui.html import H
from ftlab.ui.learn import tab as learn
from ftlab.ui.links import Links
from ftlab.ui.pace import Pace
from ftlab.ui.plan import tab as plan
from ftlab.ui.playground import tab as playground
from ftlab.ui.results import tab as results
from ftlab.ui.serve import Serving
from ftlab.ui.server import NotedBlocks, calm, health_route

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7860
_REFRESH_SECONDS = 3
_HEADER_POLLS_A_SECOND = 6  # of all pages together
_TABS = (
    ("Experiment", experiment.build),
    ("Results", results.build),
    ("Compare", compare.build),
    ("Playground", playground.build),
    ("Plan", plan.build),
    ("Learn", learn.build),
)


def build_app(runs_folder: Path, access: Access = EVERYTHING) -> gr.Blocks:
    """The whole page on one folder of runs."""
    return build_page(_context(runs_folder, access))


def _context(runs_folder: Path, access: Access) -> AppContext:
    store = RunStore(runs_folder, recorded_folder())
    client = PlaygroundClient(runs_folder, access=access)
    predictor = Predictor(limits_of=of_a_demo if access.is_demo else usual)
    return AppContext(runs_folder, store, client, predictor=predictor, access=access)


_DELETE_UPLOADS = (3_600, 86_400)
"""Every hour those of more than a day, in seconds; all of them when the app ends."""


def build_page(context: AppContext) -> gr.Blocks:
    """The whole page on what the context gives."""
    with NotedBlocks(
        title="ftlab", fill_width=True, analytics_enabled=False, delete_cache=_DELETE_UPLOADS
    ) as page:
        _header(page, context)
        tabs = gr.Tabs(elem_id="tabs", overflow_behavior="wrap")
        links = Links.between(tabs)  # outside: gradio counts what is in the tabs as a tab
        with tabs:
            for name, build in _TABS:
                with gr.Tab(name, id=name.lower()) as tab:
                    if context.access.is_demo:
                        H(banner_html(context.access.space))
                    build(context, links)
                tab.select(fn=None, js=theme.FIT_FIGURES, api_visibility="private")
        api.add_endpoints(context)
    return page


def launch(
    runs_folder: Path,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    served: Serving | None = None,
) -> None:
    """Serves the app until it is interrupted; `served` says more than where: to whom.

    Raises `FtlabError` if the address cannot be listened on, or would be open to strangers.
    """
    served = served or Serving(host, port)
    _check_address(host, port)
    served.check()
    with app_log(control_folder(runs_folder)):
        _serve(runs_folder, served)


def _serve(runs_folder: Path, served: Serving) -> None:
    context = _context(runs_folder, served.access(runs_folder))
    page = build_page(context)
    open_queue(page)
    _ensure_dispatcher(runs_folder)
    try:
        served.launch(page, [health_route(context.store)], **launch_options())
        address = page.share_url or f"http://{_reachable(served.host)}:{served.port}"
        note("app started", version=__version__, host=served.host, port=served.port)
        print(f"ftlab is ready on {address} (runs in {runs_folder})", flush=True)
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
    """Runs that were left in the queue go on; where they cannot, the page is served anyway."""
    clear_removed(runs_folder)  # what an app left that was killed while it deleted
    try:
        ensure_dispatcher(runs_folder)
    except FtlabError as error:
        print(error, file=sys.stderr)


def open_queue(page: gr.Blocks) -> None:
    """Lets events wait for their turn; none of them can be called past the others."""
    page.queue(default_concurrency_limit=8, api_open=False)
    calm(page)


def launch_options() -> dict[str, Any]:
    """What `Blocks.launch` needs for the page to look and behave as it should."""
    return {
        "theme": theme.make_theme(),
        "head": theme.page_head(),
        "js": theme.RESTORE_MODE,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "state_session_capacity": 300,  # a megabyte each, which gradio keeps when a page is closed
        "max_file_size": "100mb",
    }


def _header(page: gr.Blocks, context: AppContext) -> None:
    pace = Pace(_HEADER_POLLS_A_SECOND)

    def refresh(request: gr.Request, shown: tuple[str, float]) -> tuple[object, ...]:
        now = header_html(context.store.recent_runs(), context.access.logs_in)
        seconds = pace.seconds(request, _REFRESH_SECONDS)
        return (
            gr.skip() if now == shown[0] else now,
            gr.skip() if seconds == shown[1] else gr.update(value=seconds),
            (now, seconds),
        )

    bar = H(header_html([], context.access.logs_in), elem_id="top")
    shown = gr.State(("", float(_REFRESH_SECONDS)))
    timer = gr.Timer(_REFRESH_SECONDS)
    gr.on([timer.tick, page.load], refresh, shown, [bar, timer, shown], queue=False, **QUIET)


def _check_address(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise FtlabError(
            f"Port {port} must lie between 1 and 65535; choose another with --port or --host."
        )
    reason = why_not_free(host, port)
    if reason:
        raise FtlabError(
            f"The app cannot be served on {host}:{port} ({reason}); "
            "choose another with --port or --host."
        )


def _reachable(host: str) -> str:
    return DEFAULT_HOST if host in ("0.0.0.0", "::") else host
