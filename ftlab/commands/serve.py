"""`serve`: an OpenAI-compatible endpoint for the base and finished runs."""

from __future__ import annotations

import argparse
import os
import signal
from types import FrameType

from ftlab.basics.bearer import read_token
from ftlab.basics.errors import FtlabError
from ftlab.commands.options import (
    add_panes,
    add_runs_folder,
    add_settings,
    generation_request,
)
from ftlab.commands.waiting import say
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled
from ftlab.operations.health import why_not_free
from ftlab.playground.chat import Offer
from ftlab.playground.chat_client import ChatClient
from ftlab.playground.endpoint import KEY_VARIABLE, MOST_WAITING, served
from ftlab.playground.endpoint import run as run_endpoint
from ftlab.playground.panes import line_up
from ftlab.playground.requests import MAX_GRID_PANES
from ftlab.settings.generation import GenerationSettings

NAME = "serve"
SUMMARY = "answer OpenAI's chat completions with the base and finished runs"
DESCRIPTION = f"""Serves /v1/models and /v1/chat/completions, streaming too, on one copy of the base
model; requests of different adapters are answered in one batch. Names of models are 'base', run
ids, and labels that only one of them has. At any other address than this machine's own a key is
required: {KEY_VARIABLE} in the environment.

  python -m ftlab serve --runs base,RUN_ID
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "base", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_panes(parser, f"1 to {MAX_GRID_PANES}")
    add_settings(parser, GenerationSettings, ["precision"])
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port (%(default)s)")
    parser.add_argument(
        "--waiting", type=int, default=MOST_WAITING, metavar="N",
        help="chats that may wait besides those that are answered (%(default)s)",
    )  # fmt: skip
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder = options.runs_dir.resolve()
    key = read_token(KEY_VARIABLE, os.environ)
    request = generation_request(options, "")
    names = tuple(dict.fromkeys(request.panes))
    if not 1 <= len(names) <= MAX_GRID_PANES:
        raise FtlabError(f"--runs names {len(names)} models; name 1 to {MAX_GRID_PANES}.")
    if options.waiting < 0:
        raise FtlabError(f"--waiting is {options.waiting}; give a number from 0.")
    model = request.model or line_up(names, None, folder).model
    offer = Offer(model, request.precision, names)
    host = options.host.strip("[]")
    what = served(offer, folder, host, key, options.waiting)
    reason = why_not_free(host, options.port)
    if reason:
        raise FtlabError(
            f"{options.host}:{options.port} cannot be bound ({reason}); give another --port."
        )
    if is_bundled(model):
        ensure_bundled(say)
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {', '.join(names)} at http://{shown}:{options.port}/v1")
    signal.signal(signal.SIGTERM, _stop)
    run_endpoint(what, ChatClient(folder, offer), host, options.port)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends as Ctrl-C does, so that the worker is ended too."""
    raise KeyboardInterrupt
