"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import default_runs_folder
from ftlab.commands.waiting import say
from ftlab.jobs.launchers.launcher import where_runs_go
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.variant import Variant, parse_variant
from ftlab.playground.panes import BASE, UPLOADED, line_up, parse_names
from ftlab.playground.requests import MAX_GRID_PANES, MAX_PANES, GenerateRequest
from ftlab.playground.uploaded import upload_adapter, vouch_for_base
from ftlab.settings.generation import GenerationSettings
from ftlab.settings.schema import fields_of


def named_methods(text: str | None, others: bool) -> list[Variant]:
    """Returns the methods of an option such as "lora,qlora" or "all", each with its defaults.

    If the option is missing, returns the `CORE` methods, or none if other options name `others`.
    """
    if text is None:
        text = "" if others else ",".join(CORE)
    names = METHODS if text.strip() == "all" else text.split(",")
    return [parse_variant(name) for name in names if name.strip()]


def add_runs_folder(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=default_runs_folder(),
        metavar="DIR",
        help="folder of run directories (default: $FTLAB_RUNS, else ./runs)",
    )


def add_launcher(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--on",
        metavar="http://HEAD:8265|slurm",
        help="execute runs on a Ray cluster, or by Slurm (docs/scale.md; default: $FTLAB_ON, "
        "$RAY_ADDRESS, else this machine)",
    )


def use_launcher(options: argparse.Namespace) -> None:
    """Has runs executed where `--on` or the environment says, and says so on stderr.

    Raises `FtlabError` if that cannot be reached, or cannot take a run.
    """
    on = options.on or where_runs_go()
    if on:
        from ftlab.jobs.launchers.connect import use

        reached = use(on, options.runs_dir.resolve())
        say(reached.words)
        if reached.trouble:
            say(reached.trouble)


WHAT = ("model", "task", "seeds")
"""The settings of a request that say what is trained; the others say how."""


def add_settings(
    parser: argparse._ActionsContainer,
    settings: type,
    names: Collection[str] = (),
    default: Any = None,
    without: Collection[str] = (),
) -> None:
    """Adds an option for each setting of the type, or only for those in `names`.

    `default` is an instance with the default values; without it the type's defaults apply.
    """
    for name, described in fields_of(settings).items():
        if name in without or (names and name not in names):
            continue
        setting, value = described.setting, getattr(default or settings, name)
        shown = value if described.kind == "choice" else described.shown(value)
        usual = setting.empty or shown or "none"
        about = described.about
        number = None if setting.parse else {"whole": int, "real": float}.get(described.kind)
        kind: dict[str, Any] = {"type": number or str, "metavar": setting.example or None}
        if described.kind == "switch":
            kind = {"action": argparse.BooleanOptionalAction}
        elif described.kind == "choice":
            kind = {"choices": tuple(setting.choices or ())}
        elif described.kind == "names":
            about = f"{', '.join(setting.choices or ())}, by commas: {about}"
        elif described.kind == "text" and value is not None:
            value = described.written(value)
        help_text = f"{about} ({usual})".replace("%", "%%")
        parser.add_argument(
            f"--{described.option}", dest=name, default=value, help=help_text, **kind
        )


def read_options(options: argparse.Namespace, settings: type) -> dict[str, Any]:
    """Returns the values of the options of `add_settings` by the names of the settings.

    Raises `FtlabError` for a text that cannot be parsed.
    """
    return {
        name: described.read(value) if isinstance(value, str) else value
        for name, described in fields_of(settings).items()
        if hasattr(options, name)
        for value in [getattr(options, name)]
    }


def add_run(parser: argparse._ActionsContainer, or_merged: bool = False) -> None:
    """Adds the options for one run and its folder; with `or_merged`, for its merged model too."""
    parser.add_argument(
        "run_id", metavar="RUN", help="a run's id, as `python -m ftlab runs` lists it"
    )
    add_runs_folder(parser)
    if or_merged:
        parser.add_argument(
            "--merged",
            action="store_true",
            help="the model that `merge` made, instead of the adapter",
        )


def add_generation(parser: argparse._ActionsContainer, or_all: bool = False) -> None:
    """Adds the options for the models that answer, and for generation."""
    most = (
        f"1 to {MAX_GRID_PANES}; 'all': the base and all adapters on it"
        if or_all
        else f"1 to {MAX_PANES}"
    )
    add_panes(parser, most)
    add_settings(parser, GenerationSettings)


def add_panes(parser: argparse._ActionsContainer, most: str) -> None:
    """Adds the options for the models that answer; `most` says how many there may be."""
    parser.add_argument(
        "--runs",
        default=BASE,
        metavar="base,RUN",
        help=f"'base', run ids, shipped:sql, or an adapter's folder or zip, by commas ({most})",
    )
    parser.add_argument(
        "--base-is",
        metavar="MODEL",
        help="use that model ('bundled', a folder or a Hub id) as the base of the adapters of "
        "--runs, whatever base they name; you confirm that they were trained on it",
    )
    parser.add_argument("--model", help="base model (default: the runs' own)")


def generation_request(options: argparse.Namespace, prompt: str) -> GenerateRequest:
    """Returns the request of those options; adapters given by a path are uploaded first.

    Raises `FtlabError` for a path without an adapter, or an adapter that does not fit the base.
    """
    folder = options.runs_dir.resolve()
    model = options.model or options.base_is
    given = parse_names(options.runs)
    paths = [name for name in given if "/" in name or name.endswith(".zip")]
    others = [name for name in given if name not in paths]
    base = model or (line_up(others, None, folder).model if set(others) - {BASE} else None)
    names = []
    for name in given:
        if name in paths:
            name = upload_adapter(Path(name).expanduser(), folder, base=base).name
        if name.startswith(UPLOADED) and options.base_is:
            vouch_for_base(folder, name, options.base_is)
        names.append(name)
    for place, problem in line_up(names, model, folder).problems.items():
        if given[place] in paths:
            raise FtlabError(problem)
    if options.base_is and not any(name.startswith(UPLOADED) for name in names):
        raise FtlabError(
            f"--base-is {options.base_is} has no effect: --runs names no uploaded adapter; name "
            "its folder or zip there, or leave --base-is out."
        )
    settings = read_options(options, GenerationSettings)
    return GenerateRequest(tuple(names), prompt, model, **settings)
