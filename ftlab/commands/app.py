"""`app`: start the web app."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from types import FrameType

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import MOST_QUEUED
from ftlab.commands.options import add_launcher, add_runs_folder, add_settings, use_launcher
from ftlab.commands.waiting import say
from ftlab.jobs.launch import operator_limit
from ftlab.models.bundled import ensure_bundled
from ftlab.records.spec import SweepRequest
from ftlab.settings.request import MEMORY_LIMIT_VARIABLE

NAME = "app"
SUMMARY = "start the web app"
DESCRIPTION = (
    "Starts the web app and prints its address. Runs go on when it is closed. At any other\n"
    "address than this machine's own, and with --share, people have to log in: --auth FILE,\n"
    "or FTLAB_AUTH=user:password in the environment; in a Space with hf_oauth also\n"
    "FTLAB_HF_USERS=ada,org:NAME, who log in with Hugging Face. `ftlab` without a command is\n"
    "`ftlab app --fetch-model`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Hugging Face Space sets it
    share = os.environ.get("GRADIO_SHARE", "").lower() == "true"
    parser.add_argument("--host", default=host, help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    parser.add_argument(
        "--fetch-model",
        action="store_true",
        help="fetch the bundled model (93 MB, once) while the page is served",
    )
    add_settings(parser, SweepRequest, ["memory_limit"])
    parser.add_argument(
        "--share",
        action="store_true",
        default=share,
        help="also make a public link through gradio's server",
    )
    parser.add_argument(
        "--auth",
        type=Path,
        metavar="FILE",
        help="who may log in: lines of user:password in a file that only you can read",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        default=os.environ.get("FTLAB_PRIVATE", "").lower() in ("1", "true", "yes"),
        help="each person who logs in sees what is their own; without it all see all runs, and "
        "each ends, deletes and archives their own (default: $FTLAB_PRIVATE)",
    )
    parser.add_argument(
        "--admin",
        action="append",
        default=[],
        metavar="NAME",
        help="who sees, ends and deletes everything; without it the first account (repeatable; "
        "default: $FTLAB_ADMINS, with commas between names)",
    )
    parser.add_argument(
        "--most-queued",
        type=_whole,
        default=MOST_QUEUED,
        metavar="RUNS",
        help="runs that one person who logs in may have waiting or running (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-folder",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder in which models and data files may be named; behind a login none may "
        "otherwise (repeatable)",
    )
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy in front, whose X-Forwarded-For is believed "
        "(repeatable)",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="also give agents tools at /mcp (Model Context Protocol); with a token in "
        "FTLAB_MCP_TOKEN, which is needed where others can reach the app: TOKEN is the operator's, "
        "NAME:TOKEN that of a person who logs in, with commas between several",
    )
    add_launcher(parser)
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    if options.memory_limit:  # applies to every run that this process queues
        os.environ[MEMORY_LIMIT_VARIABLE] = options.memory_limit
    operator_limit()  # raises now if the limit is invalid
    from ftlab.tabs.agents import read_agents
    from ftlab.tabs.app import launch
    from ftlab.tabs.hub_login import read_hub_login
    from ftlab.tabs.serve import read_accounts, serving

    accounts = read_accounts(options.auth, os.environ)
    served = serving(
        options.host,
        options.port,
        options.share,
        accounts,
        tuple(options.allow_folder),
        tuple(options.proxy),
        os.environ,
        read_agents(os.environ) if options.mcp else None,
        options.private,
        tuple(options.admin or _names(os.environ.get("FTLAB_ADMINS", ""))),
        options.most_queued,
        read_hub_login(os.environ, has_passwords=bool(accounts)),
    )
    signal.signal(signal.SIGTERM, _stop)
    with served.runs_folder(options.runs_dir.resolve()) as folder:
        launch(folder, served, _fetch_model if options.fetch_model else None)
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def _fetch_model() -> None:
    """Fetches the bundled model in a thread; without it the page shows what is recorded."""

    def fetch() -> None:
        try:
            ensure_bundled(say)
        except FtlabError as error:
            say(str(error))

    threading.Thread(target=fetch, daemon=True, name="fetch-model").start()


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the app as Ctrl-C does, so that resources are closed."""
    raise KeyboardInterrupt
