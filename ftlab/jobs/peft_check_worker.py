"""Checks PeftConfigs with the PEFT classes and on the chosen model, before a run is queued.

Run as: python -m ftlab.jobs.peft_check_worker < QUESTION.json

The question comes from `ftlab.jobs.peft_check`: the configurations, and the model, precision and
settings to train them with. The answer is a JSON list on stdout with one object per configuration:
`config` (without default values), `trainable` (`null`: not counted) and `error` ("": valid).

Each configuration is applied to the whole model on torch's meta device (no weights), to find
missing layers and count parameters. It is then applied to a model of the first layers with random
weights, which is trained for one step, saved, and generates text.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.processes import Watchdog
from ftlab.basics.system import limit_data, status_bytes
from ftlab.jobs.peft_check import seconds_for
from ftlab.models.libraries import lasting_imports, prepare_for_libraries

TRIAL_PARAMETERS = 150_000_000
"""The most parameters of the trial model; 600 MB in fp32."""

SPARE_MEMORY = 4 << 30
"""The memory limit in bytes on top of the imports; stops, for example, a rank of a million."""

_TRIAL_VOCABULARY = 256
_NEEDS_VOCABULARY = (
    "token_indices", "trainable_token_indices", "cpt_token_ids", "prompt_tuning_init_text",
)  # fmt: skip
_NAMES_LAYERS = ("layers_to_transform", "layers_pattern", "adapter_layers", "target_parameters")


@dataclass(frozen=True)
class Circumstances:
    """How the configurations will be trained. `folder` is the model's, "" if it is not local."""

    folder: str
    policy: Any
    checkpointing: bool
    steps: int


@dataclass(frozen=True)
class Answer:
    config: str
    trainable: int | None = None
    error: str = ""


def main() -> int:
    answer_file = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print to stdout
    question = json.load(sys.stdin)
    Watchdog().expect(2 * seconds_for(len(question["configs"])))  # the caller times out earlier
    prepare_for_libraries("cpu")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with lasting_imports():  # before the memory limit, so that they do not count
        import torch

        from ftlab.training import model, peft_config_fields  # noqa: F401

    torch.set_num_threads(1)
    data = status_bytes("VmData")
    if data is not None:  # makes an extreme allocation fail before the machine runs out of memory
        limit_data(data + SPARE_MEMORY)
    where = Circumstances(**question["where"])
    answers = [check(asked["config"], asked["base"], where) for asked in question["configs"]]
    with answer_file:
        json.dump([vars(answer) for answer in answers], answer_file)
    return 0


def check(text: str, base: Any, where: Circumstances) -> Answer:
    """Checks one canonical configuration on a base in that precision."""
    from ftlab.methods.spec import RunPlan
    from ftlab.training.peft_config_fields import checked_config

    try:
        plan = RunPlan(where.steps, where.folder)
        config, kept = checked_config(text, plan)
        if not where.folder:
            return Answer(kept)
        trainable = _lay_over_whole_model(config, where.folder)
        _try_training(kept, base, where, plan)
        return Answer(kept, trainable)
    except FtlabError as error:
        sentence = str(error)
        return Answer(text, None, sentence + ("" if sentence.endswith((".", "?")) else "."))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return Answer(
            text,
            None,
            f"{_kind(text)} asks for more memory than a check may take "
            f"({SPARE_MEMORY >> 30} GB); choose smaller sizes.",
        )


def _kind(text: str) -> str:
    return str(json.loads(text)["peft_type"])


def _lay_over_whole_model(config: Any, folder: str) -> int | None:
    """Returns the number of trainable parameters; `None` if it cannot be found without weights.

    Raises `FtlabError` for what PEFT rejects: missing layers, block sizes that do not divide.
    """
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftlab.training.model import count_parameters, shape_of
    from ftlab.training.peft_config_fields import said_by_peft

    try:
        shape = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
        layers = dict.fromkeys(linear.short_name for linear in shape_of(model).linears)
    except (ValueError, KeyError, OSError, RuntimeError):
        traceback.print_exc()
        return None
    try:
        worn = get_peft_model(model, copy.deepcopy(config), low_cpu_mem_usage=True)
        return count_parameters(worn)[0] or None
    except (ValueError, AssertionError) as error:
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        has = f" The model's linear layers: {', '.join(layers)}." if "odules" in str(error) else ""
        raise FtlabError(said_by_peft(kind, error) + has) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # some methods initialise from the weights, which are missing here
        traceback.print_exc()
        return None


def _try_training(text: str, base: Any, where: Circumstances, plan: Any) -> None:
    """Trains one step on a small model of the same layers. Raises `FtlabError` if that fails."""
    given = json.loads(text)
    if any(given.get(name) is not None for name in _NAMES_LAYERS):
        return  # the small model has too few layers for this check
    with tempfile.TemporaryDirectory() as scratch:
        try:
            model = _small_model(given, base, where, Path(scratch) / "model")
        except (FtlabError, ValueError, KeyError, OSError, RuntimeError, AttributeError):
            traceback.print_exc()
            return  # this model cannot be built with fewer layers
        if model is None:
            return
        try:
            _train_save_and_answer(model, text, base, where, plan, Path(scratch))
        except FtlabError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or "memory" in str(error):
                raise MemoryError from error
            traceback.print_exc()
            on = f" on a base in {base}" if base else ""
            raise FtlabError(
                f"{given['peft_type']} does not work{on} with these settings and the installed "
                f"versions: {one_line(error)[:200].rstrip('.')}."
            ) from error


def _small_model(given: dict[str, Any], base: Any, where: Circumstances, folder: Path) -> Any:
    """The model's first layers with random weights, loaded as in a run; `None`: too large."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftlab.models.loading import load_base_model
    from ftlab.models.reference import ModelReference
    from ftlab.models.resolve import ResolvedModel

    for layers in (2, 1):
        config: Any = AutoConfig.from_pretrained(
            where.folder, local_files_only=True, trust_remote_code=False
        )
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        if not any(name in given for name in _NEEDS_VOCABULARY):
            config.vocab_size = _TRIAL_VOCABULARY
            config.pad_token_id = config.bos_token_id = config.eos_token_id = 0
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        if sum(p.numel() for p in empty.parameters()) <= TRIAL_PARAMETERS:
            torch.manual_seed(0)
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            model.save_pretrained(folder)
            source = ResolvedModel(ModelReference("folder", str(folder)), folder)
            return load_base_model(source, where.policy, base, torch.device("cpu"))
    return None


def _train_save_and_answer(
    base_model: Any, text: str, base: Any, where: Circumstances, plan: Any, scratch: Path
) -> None:
    import torch

    from ftlab.methods.by_hand import CONFIG, PEFT
    from ftlab.methods.variant import Variant
    from ftlab.models.generation import generation_inputs, greedy_config, left_padded
    from ftlab.training.model import added_loss, apply_method, save_initial, save_result
    from ftlab.training.step import IGNORED, Arithmetic, completion_losses, make_batch

    kind = _kind(text)
    variant = Variant(PEFT.id, {CONFIG: text}, base=base)
    model: Any = apply_method(base_model, variant, where.policy, where.checkpointing, plan)
    initial = save_initial(model, scratch / "initial")
    if where.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    arithmetic = Arithmetic(where.policy, torch.device("cpu"))
    input_ids = torch.randint(1, _TRIAL_VOCABULARY, (2, 16))
    labels = input_ids.clone()
    labels[:, :8] = IGNORED
    batch = make_batch(input_ids, torch.ones_like(input_ids), labels)
    model.train()
    with arithmetic.context():
        loss = completion_losses(model, batch)[0].mean()
    added = added_loss(model)
    (loss if added is None else loss + added).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not gradients:
        raise FtlabError(f"{kind}: nothing learns with these settings; no gradient reaches it.")
    if not loss.isfinite() or not all(gradient.isfinite().all() for gradient in gradients):
        raise FtlabError(f"{kind} gives a loss or gradient that is no number at the first step.")
    tokenizer: Any = None  # an adapter is saved without one
    save_result(model, variant, tokenizer, scratch / "adapter", initial)
    model.eval()
    callee, inputs = generation_inputs(model, left_padded([[1, 2, 3]], 0, input_ids.device))
    with torch.inference_mode(), arithmetic.context():
        callee.generate(**inputs, generation_config=greedy_config(2, [0], 0))


if __name__ == "__main__":
    sys.exit(main())
