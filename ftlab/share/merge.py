"""Merges a run's trained weights into its base, and measures the effect."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.basics.devices import Device, cpu_count
from ftlab.basics.errors import FtlabError
from ftlab.models.loading import load_base_model, load_tokenizer, weight_dtype
from ftlab.models.merging import merge_into
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel, resolve_model
from ftlab.records.differences import paired_interval
from ftlab.records.merge import MergeDirectory, MergeRecord
from ftlab.records.result import Measures
from ftlab.records.store import Run, read_run
from ftlab.share.weights import weights_of
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer, encode
from ftlab.tasks.reference import load as load_task
from ftlab.training.evaluate import Evaluation, evaluate
from ftlab.training.model import saved_dtype, torch_device
from ftlab.training.step import Arithmetic


def merge_run(merge: MergeDirectory, device: Device) -> None:
    """Merges, saves, and scores the saved model; creates the folder and its record at the end.

    Raises `FtlabError` if the base is not the one that the run was trained on, or if the adapter
    does not fit it.
    """
    began = time.perf_counter()
    run = read_run(merge.run)
    where = torch_device(device.id)
    torch.set_num_threads(cpu_count())
    merge.report({"event": "phase", "phase": "load"})
    source = resolve_model(run.spec.model, say=print)
    _check_base(run, source)
    tokenizer = load_tokenizer(source)
    model = merged_model(
        run, source, where, lambda: merge.report({"event": "phase", "phase": "merge"})
    )
    merge.report({"event": "phase", "phase": "save"})
    shutil.rmtree(merge.partial, ignore_errors=True)
    save(model, tokenizer, merge.partial)
    del model
    gc.collect()
    merge.report({"event": "phase", "phase": "evaluate"})
    after, note = _evaluation(run, merge.partial, where, merge.report)
    dtype = saved_dtype(merge.partial)
    size = sum(path.stat().st_size for path in merge.partial.iterdir())
    _put_in_place(merge)
    before = run.result.measures if run.result else Measures()
    merge.write_record(
        MergeRecord(
            dtype=dtype,
            bytes=size,
            seconds=time.perf_counter() - began,
            at=time.time(),
            device=device.label,
            score_before_merge=before.score_after,
            score_after_merge=after.score if after else None,
            score_gain=_gain(run, after),
            loss_before_merge=before.eval_loss_after,
            loss_after_merge=after.loss if after else None,
            note=note,
        )
    )


def merged_model(
    run: Run, source: ResolvedModel, device: torch.device, loaded: Callable[[], None]
) -> PreTrainedModel:
    """Returns the base with the run's weights merged, in the dtype of the policy.

    The base is always loaded in 16 bits or more, even if the run trained on a quantised one. Sums
    are taken in fp32 and rounded once.
    """
    folder = weights_of(run)
    base = load_base_model(source, run.spec.dtype_policy, None, device)
    loaded()
    merged: Any = merge_into(base, folder, run.spec.label)
    whole: PreTrainedModel = merged.to(weight_dtype(run.spec.dtype_policy, device, False))
    return whole


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a complete model that loads by itself: safetensors, configuration and tokenizer."""
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))


def _check_base(run: Run, source: ResolvedModel) -> None:
    known = run.result.environment.get("model_hash") if run.result else None
    if known is not None and known != source.fingerprint():
        raise FtlabError(
            f"The weights of {source.public_id} have changed since the run, and what it learnt "
            "goes with those it was trained on; put them back, or run it again."
        )


def _evaluation(
    run: Run, folder: Path, device: torch.device, report: Callable[[dict[str, Any]], None]
) -> tuple[Evaluation | None, str]:
    """Evaluates the saved model as the run was evaluated; or `None` and the reason."""
    spec = run.spec
    try:
        task, data = load_task(spec.task)
    except FtlabError as error:
        return None, f"Not scored after merging: {error}"
    known = run.result.environment.get("data_hash") if run.result else None
    if known is not None and known != data.fingerprint(spec.settings.eval_examples):
        return None, (
            "Not scored after merging: the task's data have changed since the run, so the two "
            "scores would not be of the same examples."
        )
    saved = ResolvedModel(ModelReference("folder", str(folder)), folder)
    model = load_base_model(saved, spec.dtype_policy, None, device)
    tokenizer = load_tokenizer(saved)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    held_out = encode(
        formatter,
        data.held_out[: spec.settings.eval_examples],
        spec.settings.max_length,
        "test",
    )
    found = evaluate(
        model,
        tokenizer,
        held_out,
        task,
        formatter.stop_ids(),
        Arithmetic(spec.dtype_policy, device),
        lambda done, total: report({"event": "evaluate", "done": done, "total": total}),
    )
    return found, ""


def _gain(run: Run, after: Evaluation | None) -> tuple[float, float, float] | None:
    """Mean and 95 % interval of the score after merging minus before, paired by example."""
    scores = {row.get("index"): row.get("score_after") for row in run.directory.samples()}
    before = [scores.get(index) for index in range(len(after.scores))] if after else []
    known = [score for score in before if score is not None]
    if after is None or len(known) < len(before) or len(known) < 2:
        return None
    return paired_interval(known, after.scores)


def _put_in_place(merge: MergeDirectory) -> None:
    """Moves the new model to the target; deletes the record of the older model first.

    Only the run's own folder is replaced. A folder that the user named must still be empty.
    """
    merge.record_file.unlink(missing_ok=True)
    if merge.target == merge.run.merged:
        shutil.rmtree(merge.target, ignore_errors=True)
    merge.partial.rename(merge.target)
