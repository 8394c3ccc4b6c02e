"""`prove`: what a method is worth, on one evidence sheet."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import write_atomically
from ftlab.commands.options import (
    WHAT,
    add_launcher,
    add_runs_folder,
    add_settings,
    read_options,
    use_launcher,
)
from ftlab.commands.sweep import parse_columns
from ftlab.commands.sweep_time import predicted_meanwhile, said_beforehand
from ftlab.commands.tables import output_console, print_ladder
from ftlab.commands.tune import run_ladders
from ftlab.commands.waiting import fetched_model, say
from ftlab.commands.watch import watch_or_cancel, watch_queued
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import check_inputs
from ftlab.jobs.launch import ValidRequest, enqueue_sweep
from ftlab.jobs.proof import Proof, ask_probe, known_ladder, known_sweep, proof_of
from ftlab.jobs.tuning import (
    POINTS,
    Tuned,
    ladder_request,
)
from ftlab.methods.variant import Variant, parse_variant, read_option
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ModelReach
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore, sweep_data
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import with_columns

NAME = "prove"
SUMMARY = "prove a new method: what it can do, costs and gains, on one sheet"
DESCRIPTION = """Tries a method on a tiny model, finds a learning rate, and compares it over several
seeds with full fine-tuning and with a LoRA of as many trainable parameters, each at the best rate
of a ladder of the same length. Writes an evidence sheet (HTML), and a JSON in the form of the
results of PEFT's method_comparison. What is done in the runs folder is not done again.

  python -m ftlab prove --peft-config my.json
  python -m ftlab prove --method oft:block=16 --task my.csv --seeds 0,1,2"""

_DEFAULTS = TrainingSettings(eval_examples=100)
_SEEDS = (0, 1, 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is proved")
    given = what.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--peft-config", metavar="FILE.json",
        help="any kind of adapter that PEFT has, by its PeftConfig as JSON; settings after a "
        "colon: FILE.json:learning_rate=1e-3",
    )  # fmt: skip
    given.add_argument(
        "--method", metavar="lora:r=4",
        help="a method of ftlab, or of an installed package (entry point ftlab.methods)",
    )  # fmt: skip
    add_settings(what, SweepRequest, WHAT, SweepRequest(seeds=_SEEDS))
    what.add_argument("--columns", metavar="prompt=q,completion=a", help="as of sweep")
    how = parser.add_argument_group("settings, the same for all")
    add_settings(
        how, TrainingSettings, ("steps", "batch_size", "max_length", "eval_examples"), _DEFAULTS
    )
    how.add_argument(
        "--points", type=int, default=POINTS, metavar="N",
        help="learning rates in each ladder (%(default)s)",
    )  # fmt: skip
    add_settings(how, SweepRequest, without=WHAT)
    out = parser.add_argument_group("output")
    out.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the sheet (default: evidence-METHOD.html)",
    )
    out.add_argument(
        "--json", type=Path, metavar="FILE", help="the JSON (default: beside the sheet)"
    )
    add_launcher(out)
    add_runs_folder(out)


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.evidence import (
        Evidence,
        check_proved,
        evidence_page,
        evidence_record,
        sentences,
    )
    from ftlab.share.report import check_target, write_report

    candidate, request = _candidate(options), _request(options)
    sheet = options.output or Path(f"evidence-{_file_name(candidate.label)}.html")
    record = options.json or sheet.with_suffix(".json")
    check_target(sheet, "report")
    _check_record(record, options.peft_config)
    store = RunStore(options.runs_dir.resolve())
    fetched_model(request.model)
    say(f"trying {candidate.label} on a tiny model …")
    capability = ask_probe(candidate)
    proof = proof_of(candidate, request, options.points, capability)
    check_inputs(proof.request, ModelReach())
    say(proof.matching)
    console = Console(stderr=True)
    watch_queued(store, console)
    tuned = _tune(proof, store, console)
    compared = proof.comparison(tuned)
    notes = [f"{proof.matching}.", *proof.left_out(tuned)]
    sweep_id = _compare(compared, store, console)
    method, data = compared.variants[0].label, sweep_data(store, sweep_id)
    check_proved(data, method)
    found = Evidence(method, data, capability, tuned, notes)
    write_report(sheet, evidence_page(found))
    text = json.dumps(evidence_record(found), indent=2, ensure_ascii=False)
    write_atomically(record, f"{text}\n".encode())
    for sentence in sentences(found):
        print(sentence)
    print(f"{sheet} and {record}")
    return 0


def _tune(proof: Proof, store: RunStore, console: Console) -> list[Tuned]:
    """The ladders of the proof, those that are known and those that are run now as one sweep."""
    request, runs = proof.request, store.runs()
    known = [known_ladder(ladder, request, runs) for ladder in proof.ladders]
    missing = [ladder for ladder, tuned in zip(proof.ladders, known, strict=True) if tuned is None]
    tuning = replace(request, seeds=request.seeds[:1])
    todo: list[SweepRequest] = [ladder_request(tuning, missing)] if missing else []
    if missing or not known_sweep(proof.comparison([one for one in known if one]), runs):
        todo.append(request)
    if todo:
        say(said_beforehand(todo, store))
    quiet = Console(quiet=True)  # the time of all was said
    new = iter(run_ladders(missing, tuning, store, console, quiet) if missing else [])
    found = [tuned or next(new) for tuned in known]
    for tuned in found:
        print_ladder(tuned, output_console())
    return found


def _compare(request: ValidRequest, store: RunStore, console: Console) -> str:
    """Runs the comparison, or waits for the one that is there; returns its sweep."""
    specs = known_sweep(request, store.runs()) or enqueue_sweep(request, store.folder)
    start_dispatcher(store.folder)
    with predicted_meanwhile(request, specs, store, console):
        if not watch_or_cancel(store, specs[0].sweep_id, console):
            raise KeyboardInterrupt
    return specs[0].sweep_id


def _candidate(options: argparse.Namespace) -> Variant:
    if options.peft_config is not None:
        return read_option(options.peft_config)
    return parse_variant(options.method)


def _request(options: argparse.Namespace) -> SweepRequest:
    given = read_options(options, SweepRequest)
    given["model"] = parse_model(given["model"]).name
    given["task"] = with_columns(given["task"], parse_columns(options.columns))
    settings = replace(_DEFAULTS, **read_options(options, TrainingSettings))
    if options.points < 2:
        raise FtlabError(f"A ladder of {options.points} rates cannot be judged; give 2 or more.")
    return SweepRequest(**given, settings=settings)


def _check_record(path: Path, config: str | None) -> None:
    """Raises `FtlabError` if the JSON would replace the given PeftConfig, or cannot be a file."""
    names = filter(None, (config or "", (config or "").rpartition(":")[0]))
    if path.resolve() in {Path(name).expanduser().resolve() for name in names}:
        raise FtlabError(f"'{path}' is the PeftConfig itself; name another file with --json.")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise FtlabError(f"'{path}' cannot be written; name a file in a folder that is there.")


def _file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "method"
