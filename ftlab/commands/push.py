"""`push`: upload a run's trained weights to the Hugging Face Hub."""

from __future__ import annotations

import argparse

from ftlab.commands.options import add_run
from ftlab.jobs.launchers.hub_errors import TOKEN
from ftlab.share.bundle import check_repo, push, run_bundle, token_of
from ftlab.share.weights import any_run

NAME = "push"
SUMMARY = "upload a run's trained weights to the Hugging Face Hub"
DESCRIPTION = f"""Uploads what `adapter` would put into the zip. The token is read from the
environment only ({TOKEN}); ftlab neither asks for it nor stores it. The repository is private
unless --public.

  {TOKEN}=… python -m ftlab push RUN --repo OWNER/NAME"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, or_merged=True)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="make the repository public")


def run(options: argparse.Namespace) -> int:
    repo = check_repo(options.repo)
    bundle = run_bundle(any_run(options.runs_dir, options.run_id), options.merged)
    print(push(bundle, repo, options.public, token_of()))
    return 0
