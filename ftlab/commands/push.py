"""`push`: upload a run's trained weights to the Hugging Face Hub."""

from __future__ import annotations

import argparse

from ftlab.commands.options import add_run
from ftlab.share.bundle import TOKEN, check_repo, push, run_bundle, token_of
from ftlab.share.weights import any_run

NAME = "push"
SUMMARY = "upload what a run learnt to the Hugging Face Hub"
DESCRIPTION = f"""Uploads what `adapter` would put into the zip. The token comes from the
environment alone ({TOKEN}); it is neither asked for nor kept. The repository is private unless
--public.

  {TOKEN}=… python -m ftlab push RUN --repo OWNER/NAME"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="let everybody read it")
    parser.add_argument(
        "--merged", action="store_true", help="the model that `merge` made, instead of the adapter"
    )


def run(options: argparse.Namespace) -> int:
    repo = check_repo(options.repo)
    bundle = run_bundle(any_run(options.runs_dir, options.run_id), options.merged)
    print(push(bundle, repo, options.public, token_of()))
    return 0
