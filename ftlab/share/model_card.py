"""The README.md of a run's weights: a model card in the format of the Hugging Face Hub.

https://huggingface.co/docs/hub/model-cards: YAML between two lines of ---, then Markdown.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ftlab import __version__
from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.units import format_bytes
from ftlab.basics.words import plural
from ftlab.methods.registry import label_of
from ftlab.models.bundled import QUALITY_NOTE
from ftlab.models.reference import BUNDLED_ID, is_hub_id, is_owned_hub_id, model_label
from ftlab.records.comparability import scored_by
from ftlab.records.differences import paired_difference
from ftlab.records.merge import MergeRecord
from ftlab.records.metrics import METRICS
from ftlab.records.recording import machine_path
from ftlab.records.result import Measures, RunResult
from ftlab.records.resume import checkpoint_interval
from ftlab.records.spec import RunSpec, rate_words
from ftlab.records.store import Run
from ftlab.settings.schema import fields_of
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.share.markdown import plain, table
from ftlab.share.weights import WEIGHTS_OF_ITS_OWN, Kind, is_on_hub, public_model
from ftlab.tasks.reference import metric_of
from ftlab.tasks.registry import TASKS


def spec_rows(spec: RunSpec, scored: int | None = None) -> list[tuple[str, Any]]:
    """Method, hyperparameters and training settings, with the labels of the form.

    `scored` is the number of scored examples, if it is known.
    """
    s = spec.settings
    kept = checkpoint_interval(s) if spec.variant else 0
    own = spec.variant.values() if spec.variant else {}
    return [
        ("Method", label_of(spec.method)),
        *own.items(),
        ("Learning rate", rate_words(spec)),
        *(
            (described.setting.label, described.shown(getattr(s, name)))
            for name, described in fields_of(TrainingSettings).items()
            if described.setting.same
        ),
        _measured_on(s, scored),
        *([("Evaluated between", f"every {s.eval_every} steps")] if s.eval_every else []),
        *([("Kept", f"every {kept} steps, to be resumed")] if kept else []),
        ("Dtype", f"{spec.dtype_policy}: {DTYPE_POLICIES.get(spec.dtype_policy, '')}"),
        ("Base held in", spec.base_precision or "the dtype policy's own"),
        ("Model", model_label(spec.model)),
        ("Task", f"{spec.task.label} ({spec.task.kind})"),
        ("Device", spec.device),
        *([("Memory limit", format_bytes(spec.memory_limit))] if spec.memory_limit else []),
        ("Seed", spec.seed),
    ]


def _measured_on(settings: TrainingSettings, scored: int | None) -> tuple[str, str]:
    name = "Test examples" if settings.eval_split == "held_out" else "Tuning split"
    alone = "" if settings.eval_answers else ", their loss alone"
    asked = settings.eval_examples
    if scored is None or scored == asked:
        return name, f"{asked} examples{alone}"
    return name, f"{plural(scored, 'example')} ({asked:,} were asked for){alone}"


LICENCES = {BUNDLED_ID: "apache-2.0"}
"""Licences of the bases that ftlab knows; for other bases their own page states it."""

_COSTS = ("trainable_params", "trainable_share", "total_params", "net_peak_memory_bytes",
          "peak_memory_bytes", "train_seconds", "tokens_per_second", "adapter_bytes")  # fmt: skip
_PIPELINE = "text-generation"
_LIBRARY: dict[Kind, str] = {
    "adapter": "peft",
    "weights": "transformers",
    "model": "transformers",
}
_FORM: dict[Kind, str] = {
    "adapter": "An adapter in PEFT's own format, to be laid over the base named below.",
    "weights": "The weights that learnt, to be put into the base named below; the others are its.",
    "model": "A whole model that loads by itself.",
}


def model_card(run: Run, kind: Kind, merged: MergeRecord | None = None) -> str:
    """The model card of a finished run's weights, or of the merged model if `merged` is given.

    Raises `FtlabError` for a run without a result.
    """
    if run.result is None or run.spec.variant is None:
        raise FtlabError(f"{run.run_id} has no result to describe; choose a run that is done.")
    parts = [
        _front_matter(run, kind, merged),
        f"# {plain(run.spec.variant.label)} on {_base_name(run.spec)}, "
        f"{plain(run.spec.task.label)}\n\n"
        f"{_FORM[kind]} {run.spec.variant.spec.summary}",
        "## Results\n\n" + _results(run, run.result, merged),
        "## What it cost\n\n" + _costs(run.result),
        "## How to load it\n\n" + _loading(run.spec, kind),
        "## How it was trained\n\n" + table(("setting", "value"), _settings(run)),
        "## Base model and licence\n\n" + _base(run.spec),
        "## Data\n\n" + _data(run),
        "## Measured on\n\n" + _machine(run.result),
    ]
    notes = [note for note in run.result.notes if note and machine_path(note) is None]
    if notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {plain(note)}" for note in notes))
    parts.append(f"Made by ftlab {__version__}.")
    return "\n\n".join(parts) + "\n"


def bundle_name(run: Run, merged: bool = False) -> str:
    """As in "ftlab-lora-sql-ab12-03"; contains the task only if it is a bundled one."""
    task = run.spec.task.id if run.spec.task.kind == "bundled" and run.spec.task.id in TASKS else ""
    parts = run.run_id.split("-")
    number = "-".join(parts[2:4]) if len(parts) > 4 else run.run_id
    names = ["ftlab", run.spec.method, task, number, "merged" if merged else ""]
    return re.sub(r"[^A-Za-z0-9-]+", "-", "-".join(filter(None, names)))


def _front_matter(run: Run, kind: Kind, merged: MergeRecord | None) -> str:
    spec = run.spec
    facts: dict[str, Any] = {}
    if _has_page(spec):
        facts["base_model"] = public_model(spec.model)
        facts["base_model_relation"] = (
            "merge" if merged else "adapter" if kind == "adapter" else "finetune"
        )
    facts["library_name"] = _LIBRARY[kind]
    facts["pipeline_tag"] = _PIPELINE
    facts["tags"] = ["ftlab", spec.method.replace("_", "-")]
    licence = LICENCES.get(public_model(spec.model))
    if licence is not None:
        facts["license"] = licence
    if spec.task.kind == "hub" and is_owned_hub_id(spec.task.id):
        facts["datasets"] = [spec.task.id]
    facts |= _model_index(run, merged)
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---"


def _model_index(run: Run, merged: MergeRecord | None) -> dict[str, Any]:
    """The scores for the Hub to read, without the file or the path of a trainer's own data; {}
    without a score. https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    from huggingface_hub import EvalResult, ModelCardData  # 0.2 s

    measures = run.result.measures if run.result else Measures()
    score = merged.score_after_merge if merged else measures.score_after
    loss = merged.loss_after_merge if merged else measures.eval_loss_after
    metric = metric_of(run.spec.task)
    values = []
    if metric and metric.hub_id and score is not None and math.isfinite(score):
        values.append((metric.hub_id, metric.label, round(score * metric.hub_scale, 4)))
    if loss is not None and math.isfinite(loss):
        values.append(("loss", METRICS["eval_loss_after"].label, round(loss, 4)))
    data = _hub_data(run)
    if not values or data is None:
        return {}
    results = [
        EvalResult(
            task_type=_PIPELINE,
            task_name="Text generation",
            metric_type=type_,
            metric_name=name,
            metric_value=value,
            **data,
        )
        for type_, name, value in values
    ]
    name = bundle_name(run, merged is not None)
    return dict(ModelCardData(model_name=name, eval_results=results).to_dict())


def _hub_data(run: Run) -> dict[str, Any] | None:
    """What `load_dataset` would load the examples with; `None` if a record names none."""
    task = run.spec.task
    which = "tuning" if run.spec.settings.eval_split == "tuning" else "test"
    scored = plural(scored_by(run) or run.spec.settings.eval_examples, f"{which} example")
    if task.kind == "hub":
        if not is_owned_hub_id(task.id):
            return None
        plain = re.fullmatch(r"[\w.-]+", task.config or "")
        config = {"dataset_config": task.config} if plain else {}
        return {"dataset_type": task.id, "dataset_name": f"{task.id}, {scored}", **config}
    if task.kind == "bundled":
        name = TASKS[task.id].label if task.id in TASKS else "a task"
        return {"dataset_type": "json", "dataset_name": f"{name} of ftlab, {scored}"}
    suffix = Path(task.id).suffix.lower()
    loader = {".csv": "csv", ".parquet": "parquet"}.get(suffix, "json")
    return {"dataset_type": loader, "dataset_name": f"the trainer's own file, {scored}"}


def _results(run: Run, result: RunResult, merged: MergeRecord | None) -> str:
    m = result.measures
    metric = str(result.environment.get("metric") or "score")
    loss, score = METRICS["eval_loss_after"], METRICS["score_after"]
    after = {"loss": m.eval_loss_after, "score": m.score_after}
    heads = ["measure", "base", "after training", "change (95 % interval)"]
    rows = [
        [f"Test loss ({loss.unit}, lower is better)", loss.format(m.eval_loss_before),
         loss.format(after["loss"]), _change(m.eval_loss_before, after["loss"], 3)],
        [f"{metric} ({score.unit}, higher is better)", score.format(m.score_before),
         score.format(after["score"]), _gain(run) or _change(m.score_before, after["score"], 2)],
    ]  # fmt: skip
    if merged is not None:
        heads.insert(3, "after merging")
        rows[0].insert(3, loss.format(merged.loss_after_merge))
        rows[1].insert(3, score.format(merged.score_after_merge))
    held_out = plural(scored_by(run) or run.spec.settings.eval_examples, "test example")
    return (
        table(heads, rows) + f"\n\nOn {held_out} that training never saw, answered greedily. The "
        "interval is a bootstrap over the examples, paired with the base."
    )


def _gain(run: Run) -> str:
    """The change of the score with its interval, from the recorded answers; "" without them."""
    rows = run.directory.samples()
    found = paired_difference(
        [row.get("score_before") for row in rows], [row.get("score_after") for row in rows]
    )
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else ""


def _change(before: float | None, after: float | None, digits: int) -> str:
    return units.DASH if before is None or after is None else f"{after - before:+.{digits}f}"


def _costs(result: RunResult) -> str:
    metrics = [METRICS[key] for key in _COSTS]
    rows = [
        (metric.label, metric.format(value), metric.how)
        for metric in metrics
        if (value := metric.value(result)) is not None
    ]
    told = f"\n\nMemory is {plain(result.memory_kind)}." if result.memory_kind else ""
    if result.measures.disturbed:
        told += " Other work on the machine made training slower, so times are too long."
    return table(("measure", "value", "how it is measured"), rows) + told


def _loading(spec: RunSpec, kind: Kind) -> str:
    base = public_model(spec.model) if _has_page(spec) else "path/to/the/base/model"
    code = {"adapter": _ADAPTER_CODE, "weights": _WEIGHTS_CODE, "model": _MODEL_CODE}[kind]
    text = "```python\n" + code.replace("BASE_MODEL", json.dumps(base)) + _ANSWER_CODE + "```"
    if kind != "adapter":
        return text
    fewer = {
        "nf4": "It was trained on the base in 4 bits (NF4)",
        "int8": "It was trained on the base in 8 bits (LLM.int8)",
    }.get(spec.base_precision or "")
    if fewer is None:
        return text
    return (
        f"{text}\n\n{fewer}: pass `quantization_config=BitsAndBytesConfig(...)` to the base to "
        "have the same, or load it in 16 bits as above."
    )


_ADAPTER_CODE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
base = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype="auto")
model = PeftModel.from_pretrained(base, folder)
"""

_WEIGHTS_CODE = f"""\
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
model = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype="auto")
model.load_state_dict(load_file(f"{{folder}}/{WEIGHTS_OF_ITS_OWN}"), strict=False)
"""

_MODEL_CODE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
"""

_ANSWER_CODE = """
turns = [{"role": "user", "content": "Your question"}]
inputs = tokenizer.apply_chat_template(
    turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=96, do_sample=False)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def _settings(run: Run) -> list[tuple[str, Any]]:
    return [
        (name, _base_name(run.spec) if name == "Model" else value)
        for name, value in spec_rows(run.spec, scored_by(run))
    ]


def _base(spec: RunSpec) -> str:
    name = public_model(spec.model)
    if not _has_page(spec):
        return (
            f"{plain(name)}, a model of the trainer's own. ftlab does not know its licence; what "
            "is made from it stays under it."
        )
    link = f"[{name}](https://huggingface.co/{name})"
    licence = LICENCES.get(name)
    known = f"licence {licence}." if licence else "whose page names its licence, which holds here."
    note = f" {QUALITY_NOTE}" if name == BUNDLED_ID else ""
    return f"{link}, {known}{note}"


def _data(run: Run) -> str:
    task, facts = run.spec.task, run.result.environment if run.result else {}
    name = plain(task.label)
    link = f"[{task.id}](https://huggingface.co/datasets/{task.id})"
    where = {
        "bundled": f"{name}, made by ftlab's own seeded generator (seed {task.seed}).",
        "file": f"The file {name}, the trainer's own; it is not part of this folder.",
        "hub": f"The data set {link if is_owned_hub_id(task.id) else name}.",
    }[task.kind]
    digest = facts.get("data_hash")
    told = f" SHA-256 of all examples in order: `{plain(digest)}`." if digest else ""
    return where + told + " Loss is taken on the completion alone."


def _machine(result: RunResult) -> str:
    facts = result.environment
    size, packages = facts.get("memory_bytes"), facts.get("packages")
    rows = [
        ("Device", facts.get("device")),
        ("Cores", facts.get("cores")),
        ("Threads", facts.get("threads")),
        ("Memory", units.format_bytes(size) if isinstance(size, int | float) and size else None),
        ("CUDA", facts.get("cuda")),
        ("Python", facts.get("python")),
        *(packages.items() if isinstance(packages, dict) else ()),
    ]
    known = [(name, value) for name, value in rows if value is not None]
    return table(("", ""), known) if known else "Not recorded."


def _has_page(spec: RunSpec) -> bool:
    """Whether the base is available on the Hub: a record may contain any name."""
    return is_on_hub(spec.model) and is_hub_id(public_model(spec.model))


def _base_name(spec: RunSpec) -> str:
    return plain(public_model(spec.model).rpartition("/")[2])
