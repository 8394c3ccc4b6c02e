"""What the checks of a GPU share: a random model, examples of known length, and queued runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ftlab.basics.devices import CPU, Device, resolve_device
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import parse_variant
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.tiny import make_tiny_model

Size = Literal["tiny", "135M", "1B"]

_SHAPES: dict[Size, dict[str, Any]] = {
    # SmolLM2-135M's and Llama 3.2 1B's own config.json, with the tests' tokenizer.
    "135M": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
        "max_position_embeddings": 8192,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
        "max_position_embeddings": 8192, "head_dim": 64,
    },
}  # fmt: skip

_ANSWER = 24  # characters, which are tokens here
_TEMPLATE_TOKENS = 40  # what the chat template adds, and some room


@dataclass(frozen=True)
class Row:
    """One finding. `ok` is `None` where something was not tried, and `found` says why."""

    check: str
    what: str
    ok: bool | None
    found: str
    figures: dict[str, Any]

    @property
    def mark(self) -> str:
        return {True: "ok", False: "WRONG", None: "not run"}[self.ok]


def row(check: str, what: str, ok: bool | None, found: str, **figures: Any) -> Row:
    return Row(check, what, ok, found, figures)


@dataclass(frozen=True)
class Bench:
    """Where the checks work: a folder of their own, and the device by its id in ftlab.

    `methods` are those that the check of every method trains.
    """

    folder: Path
    device_id: str
    size: Size
    methods: tuple[str, ...] = tuple(METHODS)

    @property
    def is_cpu(self) -> bool:
        return self.device_id == CPU

    @property
    def device(self) -> Device:
        return resolve_device(self.device_id)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the examples for which memory is predicted and measured; one on a CPU, where
        it is not compared."""
        if self.is_cpu:
            return (128,)
        return (128, 256) if self.size == "tiny" else (512, 1024)

    def model(self, size: Size | None = None) -> Path:
        """A random model of that size; memory and speed do not depend on the values."""
        size = size or self.size
        folder = self.folder / f"model-{size}"
        if (folder / "config.json").is_file():
            return folder
        make_tiny_model(folder)
        if size != "tiny":
            import torch
            from transformers import LlamaConfig, LlamaForCausalLM

            torch.manual_seed(0)
            config = LlamaConfig(
                **_SHAPES[size], eos_token_id=0, pad_token_id=0, bos_token_id=1,
                tie_word_embeddings=True,
            )  # fmt: skip
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        return folder

    def task(self, length: int) -> Path:
        """Examples of nearly that many tokens each: the tokenizer takes bytes."""
        path = self.folder / f"examples-{length}.jsonl"
        if not path.is_file():
            words = "abcdefghij" * length
            text = words[: length - _ANSWER - _TEMPLATE_TOKENS - 4]
            rows = [
                {"prompt": f"{i:04d}{text}", "completion": f"{i:04d}{words[:_ANSWER]}"[:_ANSWER]}
                for i in range(200)
            ]
            path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return path

    def plan(
        self,
        *variants: str,
        length: int | None = None,
        size: Size | None = None,
        policy: Any = "bf16",
        device_id: str | None = None,
        **settings: Any,
    ) -> list[RunSpec]:
        """Specs of a sweep on the device, base runs first."""
        length = length or self.lengths[0]
        given = {
            "steps": 4, "batch_size": 4, "warmup_steps": 0, "max_length": length,
            "eval_examples": 4, "eval_answers": False,
        }  # fmt: skip
        request = SweepRequest(
            model=str(self.model(size)),
            task=parse_task(str(self.task(length))),
            variants=tuple(map(parse_variant, variants)),
            settings=TrainingSettings(**(given | settings)),
            dtype_policy=policy,
            device=device_id or self.device_id,
        )
        return plan_sweep(request)

    def one(self, variant: str, **more: Any) -> RunSpec:
        """The spec of one run without its base run, which would only give it "before" numbers."""
        return replace(self.plan(variant, **more)[-1], base_run_id=None)

    def queue(self, specs: Sequence[RunSpec], name: str) -> list[RunDirectory]:
        """Run directories in a runs folder of that name."""
        made = []
        for spec in specs:
            directory = RunDirectory(self.folder / name / spec.run_id)
            directory.write_spec(spec)
            made.append(directory)
        return made


def has(package: str) -> bool:
    return find_spec(package) is not None


def within(measured: float, predicted: float, share: float) -> bool:
    return abs(measured / predicted - 1) <= share


def wait_for(condition: Any, seconds: float, pause: float = 0.05) -> float | None:
    """Seconds until the condition held; `None` if it never did."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(pause)
    return time.monotonic() - began


def steps_of(directory: RunDirectory) -> list[dict[str, Any]]:
    return [event for event in directory.metrics() if event.get("event") == "step"]


def ended(directory: RunDirectory) -> RunResult | None:
    """The result; `None` until there is one."""
    return directory.result() if directory.result_file.exists() else None


def reasons(directories: Sequence[RunDirectory]) -> Iterator[tuple[RunSpec, RunResult | None]]:
    for directory in directories:
        yield directory.spec(), ended(directory)
