"""`export`: write a run's merged model or its LoRA as a GGUF file, for llama.cpp."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.commands.merge import follow
from ftlab.commands.options import add_run
from ftlab.commands.waiting import say, shown_status
from ftlab.records.store import Run
from ftlab.share.gguf_control import (
    TYPES,
    file_name,
    model_folder,
    usual_type,
    write_adapter,
    write_model,
)
from ftlab.share.merge_control import start_merge
from ftlab.share.weights import any_run

NAME = "export"
SUMMARY = "write a run as a GGUF file, for llama.cpp on a phone or a laptop"
DESCRIPTION = """Writes the model with what the run learnt merged into it as one GGUF file, with its
tokenizer and chat template; a run that is not merged yet is merged first, as `merge` does. With
--adapter a plain LoRA alone, for `llama-cli -m BASE.gguf --lora FILE.gguf`. The file is read back
before it gets its name, and every value is held against its source.

  python -m ftlab export RUN --gguf
  python -m ftlab export RUN --gguf --type q8_0 -o my-model.gguf
  python -m ftlab export RUN --gguf --adapter"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--gguf", action="store_true", help="the format (the only one so far)")
    parser.add_argument(
        "--adapter", action="store_true", help="the LoRA alone, instead of the merged model"
    )
    parser.add_argument(
        "--type", choices=tuple(TYPES),
        help="of the weights: " + "; ".join(f"{name}, {about}" for name, about in TYPES.items())
        + f" (default: {usual_type(False)}; with --adapter {usual_type(True)})",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the file (default: named by the run)"
    )
    parser.add_argument("--replace", action="store_true", help="overwrite a file that is there")


def run(options: argparse.Namespace) -> int:
    if not options.gguf:
        raise FtlabError("export writes GGUF only: add --gguf; `adapter` writes a zip.")
    found = any_run(options.runs_dir, options.run_id)
    kind = options.type or usual_type(options.adapter)
    # Checks are first, before a merge that may take minutes.
    folder = None if options.adapter else model_folder(found)
    target: Path = options.output or Path(file_name(found, kind, options.adapter))
    from ftlab.share.gguf_export import check_target

    check_target(target.absolute(), options.replace)
    console = Console(stderr=True)
    if not options.adapter and folder is None:
        folder = _merged(found, console)
    with shown_status(console) as tell:
        if folder is None:
            size = write_adapter(found, target.absolute(), kind, options.replace, tell)
        else:
            size = write_model(found, folder, target.absolute(), kind, options.replace, tell)
    print(f"{target} ({units.format_bytes(size)})")
    return 0


def _merged(run: Run, console: Console) -> Path:
    say("the run is not merged yet, so it is merged first.")
    merge = start_merge(run)
    try:
        follow(merge, console)
    except KeyboardInterrupt:
        merge.cancel()
    if merge.status() != "done":
        raise FtlabError(f"Not merged, so not exported: {merge.reason or merge.status()}")
    return merge.target
