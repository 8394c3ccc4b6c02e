"""Writes a run as a Python script with plain transformers and peft, and its examples as a file.

The script is a template filled with the run's values. torch is imported only when the script is
made, for the adapter's actual configuration and the examples' token ids.

A part of `reproduce.py.template` is filled only if the run needs it, so the script has no unused
lines.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from string import Template
from typing import Any

from ftlab.basics.devices import kind_of
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.nvml import FIRST_WITH_BF16
from ftlab.basics.words import plain_line, plural
from ftlab.methods.peft_rules import CONVERTED_INITS
from ftlab.methods.registry import hooks_of
from ftlab.methods.spec import RunPlan
from ftlab.methods.targets import config_on
from ftlab.methods.variant import validate_variant
from ftlab.models.bundled import bundled_folder
from ftlab.models.dimensions import shape_of_model
from ftlab.models.libraries import CUDNN_LAST, GPU_SETTINGS
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import ResolvedModel, resolve_model
from ftlab.records.run import write_atomically, write_json_lines
from ftlab.records.spec import RunSpec, decided
from ftlab.records.store import Run
from ftlab.settings.schema import errors_in
from ftlab.settings.training import DTYPE_POLICIES, PREFIX
from ftlab.share.weights import is_on_hub, public_model
from ftlab.tasks.reference import load as load_task

QUANTISED = {
    "nf4": (
        'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,\n'
        "        bnb_4bit_compute_dtype=COMPUTE_DTYPE,"
    ),
    "int8": "load_in_8bit=True,",
}
"""Arguments of `BitsAndBytesConfig` by base precision."""

_PLAIN_BASE = """\
    model = AutoModelForCausalLM.from_pretrained(base, dtype=WEIGHT_DTYPE, use_kernels=False)
    model.to(DEVICE)
"""

_QUANTISED_BASE = """\
    fewer_bits = BitsAndBytesConfig(
        {arguments}
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=WEIGHT_DTYPE, quantization_config=fewer_bits, device_map={{"": DEVICE}},
        use_kernels=False,
    )
    for module in model.modules():
        # An evaluation would repack 4-bit weights in place; after it nothing gets a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
"""

FIND_ON_HUB = "    return BASE_MODEL"

FIND_BUNDLED = """\
    home = Path(os.environ.get("FTLAB_HOME", "~/.cache/ftlab")).expanduser()
    copy = home / "models" / {folder}
    return str(copy) if (copy / "model.safetensors").is_file() else BASE_MODEL"""
"""Uses ftlab's own copy if it exists: the run was made on it, and it needs no Hub access."""

FIND_FOLDER = """\
    sys.exit(
        "The run was made on a folder named " + BASE_MODEL + ", which no Hub has.\\n"
        "Name it: python reproduce.py FOLDER"
    )"""

_CHECKPOINTED = """\
    model.enable_input_require_grads()  # or checkpoints below the adapter carry no gradient
"""

_ADAPTER = """\
    model = get_peft_model(model, get_peft_config({config}))
"""

_LOW_PRECISION = """\
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # fp32 masters, computed in 16 bits
"""

_PART = """\
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in LEARNS)
"""

SAME_LOSSES = """\
There the losses come out the same; other
versions, devices and thread counts round otherwise, and in 16 bits that grows with the steps."""
DIVIDED = """\
It was divided over {count} processes (FSDP),
of which each computed some rows of every batch; this script does them all in one. """
LIKE_LOSSES = """\
There the losses come out alike: a
GPU may add in another order each time, so the last digits differ, and in 16 bits that grows with
the steps."""

CPU_KERNELS_IMPORT = """
from cpu_attention import use_cpu_attention
from cpu_norms import use_cpu_norms
from cpu_products import use_cpu_products"""
CPU_KERNELS = """\
use_cpu_attention()  # what the run used; without it torch's own rounds otherwise
use_cpu_products()  # changes nothing where the CPU multiplies bf16
"""

_CPU_NORMS = """\
    use_cpu_norms(model)  # as in the run
"""
_CPU_UPDATES_IMPORT = """
from cpu_updates import clip_within_step, use_sparse_token_gradients"""
_SPARSE_GRADIENTS = """\
    use_sparse_token_gradients(model)  # as in the run
"""
_CLIP_WITHIN_STEP = """
    def _clip_grad_norm(self, model):
        \"\"\"As in the run: AdamW scales the gradients as it reads them.\"\"\"
        norm = clip_within_step(self.optimizer, model.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model) if norm is None else norm
"""

GPU_KERNELS_IMPORT = "\nfrom gpu_attention import use_gpu_attention"
GPU_KERNELS = """\
# As in the run: torch's cuDNN attention comes last, and none holds every score.
os.environ.setdefault({name}, {value})
use_gpu_attention(None if torch.version.hip else torch.cuda.get_device_capability())
"""

START_SAVED = """\
if options.save:  # this start changes the base's weights too: with it, what is saved fits the base
    model.save_pretrained(options.save / "start")
"""
SAVE_CONVERTED = ', path_initial_model_for_weight_conversion=str(options.save / "start")'

CHECKPOINTING = """
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": False},"""


def literal(value: Any) -> str:
    """Formats the value as Python source; a mapping or a long list takes several lines."""
    if isinstance(value, str):
        # Python reads JSON escapes, except surrogate pairs for characters beyond 16 bits.
        return json.dumps(value) if max(map(ord, value), default=0) < 2**16 else ascii(value)
    if isinstance(value, Mapping):
        lines = [f"    {literal(key)}: {literal(one)},\n" for key, one in value.items()]
        return "{\n" + "".join(lines) + "}" if lines else "{}"
    if isinstance(value, list | tuple):
        items = [literal(one) for one in value]
        flat = f"[{', '.join(items)}]"
        return flat if len(flat) <= 72 else "[\n" + "".join(f"    {i},\n" for i in items) + "]"
    return repr(value)


def load_model(
    base_precision: str | None,
    is_adapter: bool,
    some_learn: bool,
    low_precision: bool,
    checkpointing: bool,
    start_text: bool,
    kernels: str,
) -> str:
    """The source of the function that loads the base and applies the method to it."""
    if base_precision is None:
        body = _PLAIN_BASE
    else:
        body = _QUANTISED_BASE.format(arguments=QUANTISED[base_precision])
    body += kernels
    if checkpointing and (is_adapter or some_learn):
        body += _CHECKPOINTED
    if some_learn:
        body += _PART
    if is_adapter:
        own = 'PEFT_CONFIG | {"tokenizer_name_or_path": base}' if start_text else "PEFT_CONFIG"
        body += _ADAPTER.format(config=own)
        body += _LOW_PRECISION if low_precision else ""
    return f"def load_model(base):\n{body}    return model"


SCRIPT_FILE, EXAMPLES_FILE = "reproduce.py", "examples.jsonl"
_TEMPLATE_FILE = Path(__file__).with_name("reproduce.py.template")
_WITHOUT_POSITIONS = "PREFIX_TUNING"
"""Its vectors are keys and values of each layer and take no position in the text."""


@dataclass(frozen=True)
class Reproduction:
    """The script's text, the rows of `examples.jsonl`, and `modules` that the script imports.

    `modules` has ftlab's own kernels that the run used (on a CPU in bf16, and on a GPU). They round
    differently from those of torch and transformers, or take less memory or time.
    """

    script: str
    examples: list[dict[str, Any]]
    modules: dict[str, str] = field(default_factory=dict)


def write_reproduction(run: Run, folder: Path) -> tuple[Path, ...]:
    """Writes `reproduce.py`, `examples.jsonl` and the script's modules into the folder.

    Creates the folder if needed and returns the paths in that order. Raises `FtlabError` if no
    script can reproduce the run, or if the folder cannot be written.
    """
    made = reproduction(run)
    script, examples = folder / SCRIPT_FILE, folder / EXAMPLES_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_lines(examples, made.examples)
        for name, text in {SCRIPT_FILE: made.script, **made.modules}.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise FtlabError(
            f"'{folder}' cannot be written ({error.strerror}); name another folder with -o."
        ) from None
    return script, examples, *(folder / name for name in made.modules)


def reproduction(run: Run) -> Reproduction:
    """Builds the script of the run, without training and without loading weights.

    Raises `FtlabError` with the reason if the run has no script.
    """
    spec = run.spec
    if spec.variant is None:
        raise FtlabError(f"{run.run_id} is a base run: nothing was trained, so there is no script.")
    own = spec.variant.spec.optimizer
    if own is not None and not own.script_method:
        raise FtlabError(
            f"{spec.variant.spec.label} trains with an optimizer of its own, which the script "
            "cannot write down yet."
        )
    # Validate: the spec may be third-party input, and its values are written into a program.
    wrong = [*validate_variant(spec.variant), *errors_in(spec.settings, PREFIX)]
    if wrong:
        raise InvalidRequest(wrong)
    source = resolve_model(spec.model)
    run = dataclasses.replace(run, spec=decided(spec, source.config()))
    examples, pad_id = _examples(run, source)
    values = _values(run, source) | {"pad_id": str(pad_id)}
    text = Template(_TEMPLATE_FILE.read_text(encoding="utf-8")).substitute(values)
    modules = _kernels(run).modules
    files = [Path(__file__).parents[1] / "models" / f"{module}.py" for module in modules]
    return Reproduction(
        text, examples, {file.name: file.read_text(encoding="utf-8") for file in files}
    )


def _examples(run: Run, source: ResolvedModel) -> tuple[list[dict[str, Any]], int]:
    """The rows of `examples.jsonl`, and the id of the padding token."""
    from ftlab.models.loading import load_tokenizer
    from ftlab.tasks.formatting import (
        PromptFormatter,
        TransformersTokenizer,
        encode,
        training_order,
    )

    spec, settings = run.spec, run.spec.settings
    task, data = load_task(spec.task)
    known = run.result.environment.get("data_hash") if run.result else None
    if known is not None and known != data.fingerprint(spec.settings.eval_examples):
        raise FtlabError(
            f"The data of {task.label} have changed since the run, so no script can show it the "
            "same examples; put them back, or run it again."
        )
    tokenizer = load_tokenizer(source)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    training = encode(formatter, data.train, settings.max_length, "training").formatted
    held_out = encode(
        formatter, data.held_out[: settings.eval_examples], settings.max_length, "test"
    ).formatted
    step_size = settings.batch_size * settings.accumulation
    order = training_order([e.length for e in training], settings.steps, step_size, spec.seed)

    def rows() -> Iterator[dict[str, Any]]:
        for place, index in enumerate(order):
            yield {"split": "train", "step": place // step_size + 1} | _row(training[index])
        for example in held_out:
            yield {"split": "held_out"} | _row(example)

    return list(rows()), int(tokenizer.pad_token_id)


def _row(example: Any) -> dict[str, Any]:
    return {
        "prompt": example.prompt_text,
        "completion": example.completion_text,
        "prompt_ids": example.prompt_ids,
        "completion_ids": example.completion_ids,
    }


def _values(run: Run, source: ResolvedModel) -> dict[str, str]:
    """The values of the template by name."""
    from ftlab.training.trainer import OPTIMIZER_NAMES, SCHEDULE_NAMES, effective_warmup

    spec, settings = run.spec, run.spec.settings
    assert spec.variant is not None
    method, hyper = spec.variant.spec, spec.variant.values()
    config = _peft_config(spec, source)
    learns = _learns(spec, source)
    own = method.optimizer
    changes_base = str(config.get("init_lora_weights", "")).lower().startswith(CONVERTED_INITS)
    hooks = hooks_of(str(config.get("peft_type")))
    weight_dtype, compute_dtype = _dtypes(run)
    kernels = _kernels(run)
    base = public_model(spec.model)
    find_base = _find_base(spec)
    return {
        "title": _words(
            f"Reproduces {spec.label} on {base.rpartition('/')[2]}, {spec.task.label}."
        ),
        "run_id": _words(run.run_id),
        "base_note": _base_note(spec),
        "versions": _words(_versions(run)),
        "machine": _words(_machine(run)),
        "sameness": _sameness(spec),
        "find_base": find_base,
        "os_import": "import os\n" if "os." in find_base + kernels.call else "",
        "imports": _imports(spec, own.script_import if own else "", kernels.imports),
        "base_model_literal": literal(base),
        "device": literal(spec.device.partition(":")[0]),
        "seed": str(spec.seed),
        "steps": str(settings.steps),
        "batch_size": str(settings.batch_size),
        "accumulation": str(settings.accumulation),
        "learning_rate": repr(spec.learning_rate),
        "constants": _constants(config, learns),
        "policy": spec.dtype_policy,
        "policy_words": DTYPE_POLICIES[spec.dtype_policy],
        "weight_dtype": weight_dtype,
        "compute_dtype": compute_dtype,
        "load_model": load_model(
            spec.base_precision,
            is_adapter=method.is_adapter,
            some_learn=learns is not None,
            low_precision=spec.dtype_policy != "fp32",
            checkpointing=settings.gradient_checkpointing,
            start_text=config.get("prompt_tuning_init") == "TEXT",
            kernels=kernels.on_model,
        ),
        "added_loss": (hooks.script_added_loss(config) if hooks else "") or "\n",
        "create_optimizer": own.script_method.format(**hyper) if own else "",
        "own_clipping": kernels.of_trainer,
        "after_optimizer_step": hooks.script_after_step if hooks else "",
        "kernels": kernels.call,
        "start_saved": START_SAVED if changes_base else "",
        "save_options": SAVE_CONVERTED if changes_base else "",
        "scheduler": literal(SCHEDULE_NAMES[settings.schedule]),
        "warmup_steps": str(effective_warmup(settings)),
        "weight_decay": repr(settings.weight_decay),
        "max_grad_norm": repr(settings.max_grad_norm),
        "optimizer": literal(OPTIMIZER_NAMES[settings.optimizer]),
        "checkpointing": CHECKPOINTING if settings.gradient_checkpointing else "",
    }


def _sameness(spec: RunSpec) -> str:
    shard = spec.settings.shard
    divided = DIVIDED.format(count=shard) if shard > 1 else ""
    exact = spec.device == "cpu" and shard == 1
    return divided + (SAME_LOSSES if exact else LIKE_LOSSES)


def _peft_config(spec: RunSpec, source: ResolvedModel) -> dict[str, Any]:
    """The PEFT configuration as plain values: only fields that differ from PEFT's defaults."""
    assert spec.variant is not None
    method, values = spec.variant.spec, spec.variant.values()
    if not method.is_adapter:
        return {}
    plan = RunPlan(spec.settings.steps, str(source.folder))
    config = config_on(method, values, plan, shape_of_model(spec.model))
    found = {"peft_type": config.peft_type}
    for one in dataclasses.fields(config):
        value, default = getattr(config, one.name), one.default
        if one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        if one.init and one.name not in ("peft_version", "peft_type") and value != default:
            found[one.name] = value
    found.pop("tokenizer_name_or_path", None)  # a local path; the script sets its own
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _learns(spec: RunSpec, source: ResolvedModel) -> list[str] | None:
    """The names of the trained weights if only some are trained; else `None`."""
    assert spec.variant is not None
    method = spec.variant.spec
    if method.is_adapter:
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    with torch.device("meta"):  # only the names are needed, not the weights
        model: Any = AutoModelForCausalLM.from_config(config)
    method.select_trainable(model, spec.variant.values())
    learns = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return None if len(learns) == len(list(model.parameters())) else learns


def _dtypes(run: Run) -> tuple[str, str]:
    """The dtypes of the base's weights and of the computation, as on the run's device.

    A GPU whose compute capability was not recorded is assumed to have bf16.
    """
    import torch

    from ftlab.models.loading import held_dtype

    spec, compute = run.spec, torch.float32
    if spec.dtype_policy != "fp32":
        lacks_bf16 = (_capability(run) or FIRST_WITH_BF16) < FIRST_WITH_BF16
        compute = torch.float16 if lacks_bf16 else torch.bfloat16
    learns = spec.variant is not None and not spec.variant.spec.is_adapter
    return str(held_dtype(spec.dtype_policy, compute, learns)), str(compute)


def _capability(run: Run) -> tuple[int, ...] | None:
    found = run.result.environment.get("capability") if run.result else None
    numbers = str(found).split(".")
    return tuple(map(int, numbers)) if all(n.isdecimal() and len(n) < 4 for n in numbers) else None


def _constants(config: dict[str, Any], learns: list[str] | None) -> str:
    soft = 0 if config.get("peft_type") == _WITHOUT_POSITIONS else config.get("num_virtual_tokens")
    lines = [f"SOFT_TOKENS = {soft or 0}"]
    if config:
        lines.append(f"PEFT_CONFIG = {literal(config)}")
    if learns is not None:
        lines.append(f"LEARNS = {literal(learns)}")
    return "\n".join(lines)


def _imports(spec: RunSpec, own_import: str, kernels: str) -> str:
    """The import lines of the script, in the order of a formatter."""
    assert spec.variant is not None
    lines = []
    if spec.variant.spec.is_adapter:
        lines.append("from peft import get_peft_config, get_peft_model")
        lines.append(own_import)
        if spec.dtype_policy != "fp32":
            lines.append("from peft.tuners.tuners_utils import BaseTunerLayer")
    names = ["AutoModelForCausalLM", "Trainer", "TrainerCallback", "TrainingArguments", "set_seed"]
    if spec.base_precision is not None:
        names.insert(1, "BitsAndBytesConfig")
    lines.append("from torch.utils.data import SequentialSampler")
    lines.append("from transformers import (\n" + "".join(f"    {n},\n" for n in names) + ")")
    lines.append(kernels)
    return "\n".join(filter(None, lines))


@dataclass(frozen=True)
class _Kernels:
    """ftlab's kernels in the script: their modules, the lines that import them and call them, those
    that change the loaded base, and methods of the trainer. All empty if the run used torch's and
    transformers' own."""

    modules: tuple[str, ...] = ()
    imports: str = ""
    call: str = ""
    on_model: str = ""
    of_trainer: str = ""


def _kernels(run: Run) -> _Kernels:
    kind = kind_of(run.spec.device)
    if kind == "cuda":
        found = run.result.environment.get("gpu_settings") if run.result else None
        settings = GPU_SETTINGS | (found if isinstance(found, dict) else {})
        call = GPU_KERNELS.format(
            name=literal(CUDNN_LAST), value=literal(str(settings[CUDNN_LAST]))
        )
        return _Kernels(("gpu_attention",), GPU_KERNELS_IMPORT, call)
    if kind == "cpu" and _dtypes(run)[1] == "torch.bfloat16":
        made = _Kernels(
            ("cpu_attention", "cpu_norms", "cpu_products"),
            CPU_KERNELS_IMPORT,
            CPU_KERNELS,
            _CPU_NORMS,
        )
        assert run.spec.variant is not None
        return made if run.spec.variant.spec.is_adapter else _with_updates(made)
    return _Kernels()


def _with_updates(kernels: _Kernels) -> _Kernels:
    """Adds what a CPU uses if the model's own weights are trained."""
    return _Kernels(
        (*kernels.modules, "cpu_updates"),
        kernels.imports + _CPU_UPDATES_IMPORT,
        kernels.call,
        kernels.on_model + _SPARSE_GRADIENTS,
        _CLIP_WITHIN_STEP,
    )


def _find_base(spec: RunSpec) -> str:
    """The code that finds the base if no model is named."""
    if not is_on_hub(spec.model):
        return FIND_FOLDER
    if public_model(spec.model) == BUNDLED_ID:
        return FIND_BUNDLED.format(folder=literal(bundled_folder().name))
    return FIND_ON_HUB


def _base_note(spec: RunSpec) -> str:
    """The rest of the sentence on BASE_MODEL in the script's docstring."""
    base = _words(public_model(spec.model))
    if not is_on_hub(spec.model):
        return f", that of {base},\non which the run was made: it has to be named."
    if base != BUNDLED_ID:
        return f"; without it the script takes\n{base} of the Hub."
    return (
        "; without it the script takes\n"
        "ftlab's bundled model where this machine has it (`python -m ftlab model` fetches it),\n"
        f"else {base} of the Hub. The run was made on\n"
        "the bundled one, which is rounded to 4 bits and back: with the Hub's the losses are\n"
        "others."
    )


def _words(text: str) -> str:
    """Makes text safe for the script's docstring: it cannot end the string."""
    return plain_line(text.replace("\\", "/").replace('"', "'"))


def _versions(run: Run) -> str:
    found = run.result.environment.get("packages") if run.result else None
    packages = found if isinstance(found, dict) else {}
    wanted = ("torch", "transformers", "peft", "bitsandbytes")
    return ", ".join(f"{name} {packages[name]}" for name in wanted if name in packages) or "?"


def _machine(run: Run) -> str:
    facts = run.result.environment if run.result else {}
    threads = facts.get("threads")
    counted = f", {plural(threads, 'thread')}" if isinstance(threads, int) else ""
    return f"{facts.get('device') or 'a device that is not recorded'}{counted}"
