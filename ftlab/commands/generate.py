"""`generate`: answer one prompt with the base and with finished runs."""

from __future__ import annotations

import argparse

from rich.console import Console

from ftlab.basics.words import printable
from ftlab.commands.options import add_generation, add_runs_folder, generation_request
from ftlab.commands.tables import json_text
from ftlab.commands.waiting import shown_status
from ftlab.playground.client import PlaygroundClient

NAME = "generate"
SUMMARY = "answer a prompt with the base and with finished runs, side by side"
DESCRIPTION = (
    "Answers one prompt with each of the named runs on one copy of the base model.\n\n"
    "  python -m ftlab generate --runs base,RUN_ID --prompt 'Table t(a, b). How many rows?'\n"
    "  python -m ftlab generate --runs base,./my-adapter --base-is bundled --prompt 'Hello'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="the user's turn")
    add_generation(parser)
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON list")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    request = generation_request(options, options.prompt)
    client = PlaygroundClient(options.runs_dir.resolve())
    try:
        with shown_status(Console(stderr=True, quiet=options.json)) as tell:
            answers = client.generate_all(request, tell)
    finally:
        client.close()
    if options.json:
        print(json_text(answers))
    else:
        for answer in answers:
            said = f"── {answer['label']}\n{answer['error'] or answer['answer']}\n"
            print(printable(said, keep="\n\t"))
    return 1 if any(answer["error"] for answer in answers) else 0
