"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.files import default_runs_folder
from ftlab.jobs import launch
from ftlab.jobs.inputs import check_inputs
from ftlab.jobs.launch import validate
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.resolve import ModelReach
from ftlab.playground.panes import BASE, UPLOADED, line_up, parse_names
from ftlab.playground.requests import PRECISIONS, GenerateRequest
from ftlab.playground.uploaded import bring_adapter, vouch_for_base
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import fields_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


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


def add_memory_limit(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--memory-limit",
        metavar="2GB",
        help="how much memory of its device a run may use, on a CPU with its process; one that "
        f"needs more is out of memory (default: ${launch.MEMORY_LIMIT_VARIABLE}, else no limit)",
    )


def add_settings(
    parser: argparse._ActionsContainer,
    settings: type,
    names: Collection[str] = (),
    default: Any = None,
) -> None:
    """Adds an option for each setting of the type, or only for those in `names`.

    `default` is an instance with the default values; without it the type's defaults apply.
    """
    for name, described in fields_of(settings).items():
        if names and name not in names:
            continue
        setting, value = described.setting, getattr(default or settings, name)
        shown = value if described.kind == "choice" else described.shown(value)
        usual = setting.empty or shown or "none"
        option = "--" + name.replace("_", "-")
        help_text = f"{setting.help} ({usual})".strip().replace("%", "%%")
        kind: dict[str, Any] = {"type": {"whole": int, "real": float}.get(described.kind, str)}
        if described.kind == "switch":
            kind = {"action": argparse.BooleanOptionalAction}
        elif described.kind == "choice":
            kind = {"choices": tuple(setting.choices or ())}
        elif described.kind == "names":
            help_text = f"{', '.join(setting.choices or ())}, by commas: {help_text}"
        parser.add_argument(option, default=value, help=help_text, **kind)


def settings_from(options: argparse.Namespace, default: Settings) -> Settings:
    """Returns the settings from the options of `add_settings`; the others come from `default`.

    Raises `FtlabError` for invalid values.
    """
    given = {}
    for name, described in fields_of(type(default)).items():
        if hasattr(options, name):
            value = getattr(options, name)
            given[name] = described.read(value) if isinstance(value, str) else value
    return replace(default, **given)


def checked_inputs(request: SweepRequest) -> str:
    """Returns a sentence if fewer examples are scored than requested, else "".

    Raises `InvalidRequest` for invalid fields, and for a model or data that cannot be used.
    """
    errors = validate(request)
    if errors:
        raise InvalidRequest(errors)
    return check_inputs(request, ModelReach()).words


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


_GENERATION = (
    "precision", "mode", "system", "max_new_tokens", "temperature", "top_p", "repetition_penalty",
    "seed",
)  # fmt: skip


def add_generation(parser: argparse._ActionsContainer) -> None:
    """Adds the options for the models that answer, and for generation."""
    default = GenerateRequest((), "")
    parser.add_argument(
        "--runs",
        default=BASE,
        metavar="base,RUN",
        help="'base', run ids, shipped:sql, or an adapter's folder or zip, by commas (1 to 6)",
    )
    parser.add_argument(
        "--base-is",
        metavar="MODEL",
        help="use that model ('bundled', a folder or a Hub id) as the base of the adapters of "
        "--runs, whatever base they name; you confirm that they were trained on it",
    )
    parser.add_argument("--system", default="", help="system prompt (default: the template's own)")
    parser.add_argument("--mode", choices=("chat", "completion"), default=default.mode)
    parser.add_argument("--model", help="base model (default: the runs' own)")
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default=default.precision, help="of the base"
    )
    parser.add_argument("--max-new-tokens", type=int, default=default.max_new_tokens, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 keeps every token (default)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="1 is none (default)")
    parser.add_argument("--seed", type=int, default=0)


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
            name = bring_adapter(Path(name).expanduser(), folder, base=base).name
        if name.startswith(UPLOADED) and options.base_is:
            vouch_for_base(folder, name, options.base_is)
        names.append(name)
    for place, problem in line_up(names, model, folder).problems.items():
        if given[place] in paths:
            raise FtlabError(problem)
    if options.base_is and not any(name.startswith(UPLOADED) for name in names):
        raise FtlabError(
            f"--base-is {options.base_is} has no effect: --runs names no adapter of your own; name "
            "its folder or zip there, or leave --base-is out."
        )
    return GenerateRequest(
        panes=tuple(names),
        prompt=prompt,
        model=model,
        **{name: getattr(options, name) for name in _GENERATION},
    )
