"""`app`: the web page."""

from __future__ import annotations

import argparse
import os

from ftlab.commands.options import add_memory_limit, add_runs_folder
from ftlab.errors import FtlabError
from ftlab.runs import memory_limit

NAME = "app"
SUMMARY = "start the web app"
DESCRIPTION = "Starts the web app and prints its address. Runs go on when it is closed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Hugging Face Space sets it
    parser.add_argument("--host", default=host, help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    add_memory_limit(parser)
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    if not 1 <= options.port <= 65535:
        raise FtlabError(f"Port {options.port} must lie between 1 and 65535.")
    if options.memory_limit:  # of whatever this process queues, on whichever page
        os.environ[memory_limit.ENVIRONMENT] = options.memory_limit
    memory_limit.operator_limit()  # refused now, if it is no size
    from ftlab.ui.app import launch

    launch(options.runs_dir.resolve(), host=options.host, port=options.port)
    return 0
