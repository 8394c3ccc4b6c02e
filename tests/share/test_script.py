"""A run as a script: it is run, and its losses are the run's."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.methods import registry
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import OwnOptimizer
from ftlab.models.libraries import CUDNN_LAST
from ftlab.models.resolve import resolve_model
from ftlab.records.store import Run, read_run
from ftlab.share import script as export_script
from ftlab.share.script import reproduction, write_reproduction
from tests.fakes import make_run
from tests.share.conftest import Train


def check_losses(run: Run, output: str, tolerance: float) -> None:
    """The printed losses are those of the run's metrics.jsonl and result.json."""
    found = [float(loss) for loss in re.findall(r"^step \d+ loss ([\d.]+)$", output, re.MULTILINE)]
    wanted = [event["loss"] for event in run.directory.metrics()]
    assert len(wanted) == 3
    assert found == pytest.approx(wanted, rel=tolerance)
    held_out = re.search(r"^test loss ([\d.]+)$", output, re.MULTILINE)
    assert held_out is not None
    assert run.result is not None
    assert float(held_out[1]) == pytest.approx(run.result.measures.eval_loss_after, rel=tolerance)


def alone(script: Path, *given: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, on a machine without a way to the Hub."""
    return subprocess.run(
        [sys.executable, str(script), *given],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=script.parent,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "checkpointing"),
    [
        ("full", False),
        ("lora:dropout=0.1", False),
        ("last_layers:layers=1", True),
        ("qlora", False),
        ("pissa", False),
        ("adalora:r=1,init_r=8,learning_rate=0.2", False),
        ("adalora:orthogonality=0.5", False),  # PEFT's default, which its configuration leaves out
        ("lora_plus", False),
        ("lora_fa", True),
        ("prompt_tuning_text:tokens=4", False),
        ("prefix_tuning:tokens=4", False),
    ],
)
def test_whatever_a_method_does_in_the_loop_the_script_does_too(
    variant: str,
    checkpointing: bool,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(variant, "fp32", checkpointing)
    script, _ = write_reproduction(run, tmp_path / "script")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [str(script), run.spec.model])
    runpy.run_path(str(script), run_name="__main__")
    check_losses(run, capsys.readouterr().out, 1e-5)


def on_bundled(run: Run, folder: Path) -> Run:
    """The same run, as if its model were the bundled one, which then lies in that cache folder."""
    from ftlab.models.bundled import bundled_folder

    copy = folder / "models" / bundled_folder().name
    shutil.copytree(run.spec.model, copy)
    return replace(run, spec=replace(run.spec, model="bundled"))


@pytest.mark.slow
def test_the_script_of_a_run_on_the_bundled_model_runs_by_itself_and_without_the_hub(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("full", "bf16")
    home = tmp_path / "home with spaces"
    run = on_bundled(trained, home)
    monkeypatch.setenv("FTLAB_HOME", str(home))
    script, _, *kernels = write_reproduction(run, tmp_path / "script")
    modules = ["cpu_attention", "cpu_norms", "cpu_products", "cpu_updates"]
    assert [kernel.stem for kernel in kernels] == modules
    for file in (script, *kernels):
        assert not re.search(r"^\s*(from|import) ftlab", file.read_text(), re.MULTILINE)
    done = alone(script, "--save", "saved", FTLAB_HOME=str(home))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"base model: {home}" in done.stdout
    check_losses(trained, done.stdout, 1e-5)
    assert str(tmp_path) not in script.read_text()
    assert list((script.parent / "saved").glob("*.safetensors"))


RUN_EACH = """
import runpy, sys
scripts, sys.argv = sys.argv[1:], ["reproduce.py"]
for script in scripts:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end.code, end="===")
"""


@pytest.mark.slow
def test_a_script_that_finds_no_model_says_what_to_type_instead_of_a_traceback(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train("lora")
    resolved = resolve_model(trained.spec.model)
    monkeypatch.setattr(export_script, "resolve_model", lambda name: resolved)
    wanted = {
        "bundled": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "owner/never-fetched": "owner/never-fetched",
        "/srv/models/mine": "a folder named mine, which no Hub has",
    }
    scripts = [
        write_reproduction(
            replace(trained, spec=replace(trained.spec, model=model)), tmp_path / str(place)
        )[0]
        for place, model in enumerate(wanted)
    ]
    (tmp_path / "each.py").write_text(RUN_EACH)
    empty = {"FTLAB_HOME": str(tmp_path / "empty"), "HF_HOME": str(tmp_path / "hf")}
    done = alone(tmp_path / "each.py", *map(str, scripts), **empty)
    assert done.returncode == 0, done.stderr
    *said, rest = done.stdout.split("===")
    assert rest == ""
    for words, text in zip(wanted.values(), said, strict=True):
        assert words in text
        assert text.rstrip().endswith("python reproduce.py FOLDER")


def test_the_examples_come_in_the_order_of_the_steps_as_text_and_as_tokens(
    train: Train, tmp_path: Path
) -> None:
    run, folder = train("full"), tmp_path / "new" / "folder"
    runs = str(run.directory.path.parent)
    assert main(["script", run.run_id, "-o", str(folder), "--runs-dir", runs]) == 0
    text = (folder / "examples.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    training = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in training] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert sum(row["split"] == "held_out" for row in rows) == 2
    assert "Repeat" in training[0]["prompt"]
    assert all(row["prompt_ids"] and row["completion_ids"] for row in rows)


def test_text_of_a_person_cannot_end_the_scripts_docstring(train: Train) -> None:
    run = train("prompt_tuning:tokens=4")
    made = reproduction(run).script
    compile(made, "reproduce.py", "exec")
    attack = '"""\nraise SystemExit("run")\n'
    hostile = make_run(
        run.directory.path.parent,
        "prompt_tuning",
        model=run.spec.model,
        task=run.spec.task,
        hyperparameters={"tokens": 4, "text": attack, "start": "text"},
    )
    found = read_run(hostile)
    assert found.result is not None
    text = reproduction(replace(found, result=replace(found.result, environment={}))).script
    docstring = compile(text, "reproduce.py", "exec").co_consts[0]
    assert "raise SystemExit" in docstring
    assert "Measured with" in docstring


def test_the_script_has_the_rate_of_the_runs_own_size_also_of_a_run_that_never_began(
    train: Train,
) -> None:
    run = train("full")
    rate = 1.7e-3  # tuned 3e-4 * (576 / 64)^0.781
    waiting = replace(run, spec=replace(run.spec, default_rate="undecided"))
    for one in (run, waiting):
        assert f"\nLEARNING_RATE = {rate}\n" in reproduction(one).script


@pytest.mark.parametrize(
    ("capability", "weights", "compute"),
    [
        ("7.5", "float32", "float16"),
        ("8.0", "bfloat16", "bfloat16"),
        (None, "bfloat16", "bfloat16"),
    ],
)
def test_the_script_of_a_gpus_run_computes_as_that_gpu_did_and_promises_no_equal_digits(
    capability: str | None, weights: str, compute: str, train: Train, tmp_path: Path
) -> None:
    run = train("full", "bf16")
    here = write_reproduction(run, tmp_path)[0].read_text(encoding="utf-8")
    assert "There the losses come out the same; other" in here
    assert run.result is not None
    facts = run.result.environment | {"capability": capability, "gpu_settings": {CUDNN_LAST: "0"}}
    there = replace(
        run,
        spec=replace(run.spec, device="cuda:0.1"),
        result=replace(run.result, environment=facts),
    )
    made = reproduction(there)
    compile(made.script, "reproduce.py", "exec")
    assert 'DEVICE = "cuda"' in made.script
    assert f"WEIGHT_DTYPE = torch.{weights}\nCOMPUTE_DTYPE = torch.{compute}\n" in made.script
    assert "import os\n" in made.script
    assert f'os.environ.setdefault("{CUDNN_LAST}", "0")' in made.script
    assert "There the losses come out alike: a\nGPU may add in another order" in made.script
    (module,) = made.modules.values()
    assert list(made.modules) == ["gpu_attention.py"]
    (tmp_path / "gpu_attention.py").write_text(module, encoding="utf-8")
    runpy.run_path(str(tmp_path / "gpu_attention.py"))
    assert "ftlab" not in re.findall(r"^(?:from|import) (\w+)", module, re.MULTILINE)


def test_data_that_changed_have_no_script(train: Train) -> None:
    run = train("full")
    other = make_run(run.directory.path.parent, model=run.spec.model, task=run.spec.task)
    with pytest.raises(FtlabError, match="have changed since the run"):
        reproduction(read_run(other))


@pytest.mark.parametrize("method", [m.id for m in METHODS.values() if m.optimizer is not None])
def test_an_optimizer_of_a_methods_own_is_written_down(method: str) -> None:
    own = METHODS[method].optimizer
    assert own is not None
    assert own.script_import
    compile(f"class Trainer:\n{own.script_method.format(**METHODS[method].defaults())}", "", "exec")


def test_an_optimizer_that_nobody_wrote_down_has_no_script(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own = train("full"), OwnOptimizer(torch.optim.SGD)
    monkeypatch.setitem(registry._BY_ID, "full", replace(METHODS["full"], optimizer=own))
    with pytest.raises(FtlabError, match="cannot write down yet"):
        reproduction(run)


def test_the_command_refuses_a_base_run_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_run(tmp_path, "base")
    assert main(["script", base.run_id, "--runs-dir", str(tmp_path)]) == 2
    assert "nothing was trained" in capsys.readouterr().err
