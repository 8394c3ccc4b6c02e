"""The smallest run of every benchmark and script that a document names.

`tests/benchmarks/test_smallest_runs.py` runs them, and fails for a documented script that has none
and is not in `NOT_RUN`.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATE = r"bf16 products of 576 x 576 by 576 x 1536: \d+ GFLOP/s \(median of \d+; .+, \d+ cores?, "


@dataclass(frozen=True)
class SmallRun:
    """A script with the arguments of its smallest run, and patterns of what it then prints.

    In the arguments `{tiny}` is the folder of a tiny model and `{folder}` an empty one but for a
    copy of the README and a `load.json`. `writes` are files that it leaves in `{folder}`. `judges`:
    it ends with status 1 where a figure is missed, as one in so small a run may be. Each prints the
    rate of the machine's products with its figures, unless `without_rate` says why not. One that
    `opens_page` needs Chromium.
    """

    module: str
    arguments: str
    prints: tuple[str, ...]
    writes: tuple[str, ...] = ()
    judges: bool = False
    without_rate: str = ""
    opens_page: bool = False

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]} {self.arguments}".strip()

    def main(self, tiny: Path, folder: Path) -> int:
        """Runs it in this process; returns its status."""
        given = [part.format(tiny=tiny, folder=folder) for part in shlex.split(self.arguments)]
        status: int = importlib.import_module(self.module).main(given)
        return status

    def check(self, status: int, printed: str, folder: Path) -> None:
        """That it did its work, whatever the figures are."""
        assert status in ((0, 1) if self.judges else (0,)), printed
        for pattern in (*self.prints, *([] if self.without_rate else [RATE])):
            assert re.search(pattern, printed, re.MULTILINE), f"no {pattern!r} in:\n{printed}"
        for name in self.writes:
            assert (folder / name).stat().st_size > 0
            if not self.without_rate and name.endswith(".json"):
                found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
                assert found["product_rate"]["gflops"] > 0
                assert found["figures"]


SMALLEST = (
    SmallRun(
        "tests.benchmarks.product_rate",
        "--json",
        (r'"gflops": \d+\.\d, "repeats": \d+, "device": ".+", "cores": \d+',),
        without_rate="it is the rate, as JSON",
    ),
    SmallRun(
        "tests.benchmarks.against_trl",
        "--repeats 1 --steps 2 --methods lora --model {tiny} --json {folder}/trl.json",
        (
            r"^ftlab  lora .* s  peak .* net .* loss \d\.\d{4} -> \d\.\d{4}$",
            r"^trl    lora .* s  peak .* net .* loss \d\.\d{4} -> \d\.\d{4}$",
            r"^lora +time \d+\.\d\dx of .* net peak .* first loss off by 0\.0\d%;  "
            r"trains 16,384 parameters, TRL 16,384$",
        ),
        writes=("trl.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.architectures",
        "--families llama --write {folder}/architectures.md",
        (r"^\| llama \| ✓ \| ✓ \| ✓ \| ✓ \| all linear layers \|$",),
        writes=("architectures.md",),
        without_rate="nothing is timed",
    ),
    SmallRun(
        "tests.benchmarks.devices",
        "--devices 2 --runs 5 --repetitions 1",
        (
            r"^5 runs on 2 devices in .+: they computed \d\d\.\d% of their time$",
            r"^least: \d\d\.\d%$",
        ),
        judges=True,
        without_rate="its clock is simulated",
    ),
    SmallRun(
        "tests.benchmarks.sharded",
        "--ranks 2 --steps 2 --variants lora --model {tiny}",
        (
            r"^lora x 1: net peak \d+ MB",
            r"^lora x 2: net peak \d+, \d+ MB; \d+\.\d\d s a step$",
            r"^  without the process's own -?\d+ MB: \d+ MB, predicted \d+ MB",
            r"^  losses of 2 steps differ by \d\.\de[-+]\d\d at most$",
            r"^  the peak fell to \d+\.\d+ of one process's, predicted \d\.\d+",
        ),
        judges=True,  # a tiny model's peak is that of everything else
    ),
    SmallRun(
        "tests.benchmarks.many_runs",
        "--runs 60",
        (
            r"^without an index: \d\.\d\d s",
            r"^read and tabulate: \d\.\d\d s",
            r"^look again: \d\.\d\d s",
            r"^the dispatcher looks: \d\.\d\d s",
            r"^20 more looks: [+-]\d+\.\d MB$",
        ),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.files_entered",
        "--model {tiny}",
        (r"^launch: \d+ files, ", r"^run: \d+ files, ", r"^prompt: \d+ files, "),
        without_rate="nothing is timed",
    ),
    SmallRun(
        "tests.benchmarks.arithmetic",
        "--seeds 0 --steps 2 --held-out 4 --model {tiny} --json {folder}/arithmetic.json",
        (r"^fp32 .* seed 0  test loss \d\.\d{4}  training +\d", r"^bf16 differs from fp32 by"),
        writes=("arithmetic.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.attention",
        "--batch 1 --lengths 8 --seconds 0.01",
        (r"^ +8 tokens  flash +\d+\.\d\d ms  off", r"^ +8 tokens  ours +\d+\.\d\d ms  off"),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.contention",
        "--loads 100 --repeats 1 --steps 9 --model {tiny} --json {folder}/contention.json",
        (r"^  0 % of a core: +\d.* s, 1\.00x as long", r"^median \d.*x at 100 %: [01] of 1 called"),
        writes=("contention.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.spare_cores",
        "--repeats 1 --beside stopped",
        tuple(
            rf"^{way} +\d+ GFLOP/s, \d+\.\d\d times the time alone$" for way in ("alone", "stopped")
        ),
    ),
    SmallRun(
        "tests.benchmarks.large_vocabulary",
        "--tokens 4",
        (r"^whole: 32 tokens, \d+ MB", r"^parts: 32 tokens, \d+ MB"),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.profile_step",
        "lora --steps 4 --shapes --rows 5 --model {tiny}",
        (
            r"aten::\w+",
            r"^products of attention +\d+ ms a step +\d+%$",
            r"^seconds of each step: \d.*( \d+\.\d\d){3}$",
        ),
    ),
    SmallRun(
        "tests.benchmarks.quality",
        "--methods lora --seeds 0 --steps 1 --eval-examples 2 --model {tiny} "
        "--runs-dir {folder}/runs --json {folder}/quality.json --update-readme {folder}/README.md",
        (
            r"^\| LoRA \| 16\.4 k ",
            r"^Means over 1 seed; 1 steps of batch 4, 2 test .* bf16 products at \d+ GFLOP/s",
        ),
        writes=("quality.json", "README.md"),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.side_by_side",
        "--repeats 1 --prompts 1 --new-tokens 4 --model {tiny} --json {folder}/side.json "
        "--only speed sameness quantised pane",
        (
            r"engine against mixed batch in bf16: \d",
            r"^lora: 1 of 1 fp32 texts identical",
            r"^full: 1 of 1 fp32 texts identical",
            r"^met    logits off on a 4-bit base",
            r"seconds to add a pane : \d",
        ),
        writes=("side.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.side_by_side",
        "--repeats 1 --prompts 1 --new-tokens 4 --model {tiny} --against .",
        (r"engine against the other checkout in fp32: \d", r"^all texts are the same$"),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.endpoint",
        "--clients 2 --repeats 1 --new-tokens 4 --model {tiny} --json {folder}/endpoint.json",
        (
            r"^one after another \d.* s, together \d.* s: \d.*x; 0 of 2 texts differ$",
            r"2 clients with an adapter each in fp32: \d",
        ),
        writes=("endpoint.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.scoring",
        "--against . --examples 2 --repeats 1 --threads 1 --policies fp32 --packed --model {tiny} "
        "--json {folder}/scoring.json",
        (
            r"^sql base fp32 nf4  wall: loss \d.* \(\d.*x\), passages .*, answers .*, all \d",
            r"^sql base fp32 nf4  net peak \d+ of \d+ MB; losses off by 0\.0e\+00 at most; 2 of 2 ",
        ),
        writes=("scoring.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.step_limit",
        "--methods lora --steps 2 --repeats 1 --policy fp32 --model {tiny} "
        "--json {folder}/limit.json",
        (r"^lora: a step takes \d\.\d+ s, its \d+ products \d\.\d+ s: \d+\.\d\dx \(at most",),
        writes=("limit.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.whole_sweep",
        "--against . --methods lora --steps 2 --eval-examples 2 --model {tiny} --when new "
        "--json {folder}/whole.json",
        (
            r"^new ours: \d+\.\d s, of which \d+\.\d s are training; first loss after \d",
            r"^new: \d\.\d\dx \(at most 0\.6x\); without training \d\.\d\dx; first loss \d",
        ),
        writes=("whole.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.startup",
        "--repeats 1 --warm-up 0",
        (r"^median \d+\.\d\d s, worst \d+\.\d\d s$",),
        judges=True,
        without_rate="times of a page",
    ),
    SmallRun(
        "tests.benchmarks.sweep_time",
        "--methods lora,ia3 --steps 1 --eval-examples 2 --policy fp32 --model {tiny} "
        "--runs-dir {folder}/runs --json {folder}/time.json",
        (
            r"^lora: \d+\.\d s predicted, \d+\.\d s measured$",
            r"^with 0 earlier runs: \d+\.\d s predicted, \d+\.\d s measured, \d+\.\d\d times off",
            r"^with 2 earlier runs: ",
        ),
        writes=("time.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.grid_time",
        "--panes 2 --prompts 1 --new-tokens 4 --model {tiny} --json {folder}/grid.json",
        (
            r"^2 answers in 2 panes, 0 earlier: \d+\.\d s predicted, \d+\.\d s measured, [+-]\d+%$",
            r"^2 answers in 2 panes, 1 earlier: ",
        ),
        writes=("grid.json",),
        judges=True,
    ),
    SmallRun(
        "tests.benchmarks.text_differences",
        "--repeats 1",
        (r"^two_words_at_random, 1,000 words: \d+\.\d ms$",),
        judges=True,
        without_rate="texts are compared without torch",
    ),
    SmallRun(
        "tests.benchmarks.load",
        "--minutes 0.05 --sessions 2 --arrive 0.5 --json {folder}/measured.json",
        (r"^2 sessions for \d+ s, \d+ polls", r"^web process +\d+\.\d% of one core$"),
        writes=("measured.json",),
        judges=True,
        without_rate="times of a page",
    ),
    SmallRun(
        "tests.benchmarks.prediction",
        "--only ia3/llama-3.2-3B-default IA3 '135M sdpa nf4 2' --write {folder}/prediction.md",
        (
            r"^ia3/llama-3\.2-3B-default: parameters right, file .* reserved [+-]\d",
            r"^IA3 on a CPU: \d\.\d\d times$",
        ),
        writes=("prediction.md",),
        judges=True,
        without_rate="its figures are bytes",
    ),
    SmallRun(
        "tests.benchmarks.step_times",
        "--only ia3/llama-3.2-3B-default --write {folder}",
        (r"^fitted: \d+ TFLOP/s, ", r"^1 of 1 rows within 25%, Spearman 1\.00$"),
        writes=("peft_step_work.csv",),
        without_rate="its times are published ones",
    ),
    SmallRun(
        "tests.benchmarks.promises",
        "--tests tests/records/test_thinning.py --load {folder}/load.json "
        "--write {folder}/tried.md",
        (r"^\| kinds of faults injected \| \d+ \| 0 runs \|$", r"^\| polls of 2 browsers "),
        writes=("tried.md",),
        without_rate="its figures are counts",
    ),
    SmallRun(
        "tests.benchmarks.strangers",
        '--only "16 MB, no session" --times 0.04 --json {folder}/strangers.json',
        (r"^\| bodies of 16 MB, no session \| login \| \d+\.\d\d s \| .* \| 2 x 401 ",),
        writes=("strangers.json",),
        judges=True,
    ),
    SmallRun(
        "tests.data.hostile.make",
        "--folder {folder}/hostile",
        (),
        writes=("hostile/datasets/taken/texts.csv", "hostile/configs/pissa.json"),
        without_rate="it makes files",
    ),
    SmallRun(
        "tests.benchmarks.addresses",
        "--repeats 1 --views compare --line 100",
        (r"^bare: median \d", r"^compare: median \d"),
        judges=True,
        without_rate="times of a page",
        opens_page=True,
    ),
    SmallRun(
        "tests.benchmarks.results_page",
        "--runs 13 --repeats 1",
        (r"^first: median \d", r"^again: median \d", r"^filter: median \d"),
        judges=True,
        without_rate="times of a page",
        opens_page=True,
    ),
    SmallRun(
        "tests.benchmarks.compare_page",
        "--repeats 1 --variants 4 --rest 100",
        (r"^tab, first click +median \d", r"^axis of the loss +median \d", r"^slowest median \d"),
        judges=True,
        without_rate="times of a page",
        opens_page=True,
    ),
    SmallRun(
        "tests.benchmarks.watching",
        "--seconds 1 --settle 0 --views hidden --json {folder}/watching.json",
        (r"^hidden +browser +\d+\.\d% +web process +\d+\.\d% of a core$",),
        writes=("watching.json",),
        judges=True,
        without_rate="times of a page",
        opens_page=True,
    ),
    SmallRun(
        "tests.benchmarks.first_loss",
        "--methods lora --model {tiny} --when new --settle 0 --json {folder}/first_loss.json",
        (r"^new: first loss drawn after \d+\.\d s: worker \d.*, first step \d+\.\d s$",),
        writes=("first_loss.json",),
        judges=True,
        opens_page=True,
    ),
    SmallRun(
        "tests.benchmarks.side_by_side",
        "--only page --repeats 1 --prompts 2 --new-tokens 6",
        (
            r"seconds from Send to the first token on screen : \d",
            r"seconds until another tab opens meanwhile : \d",
        ),
        judges=True,
        opens_page=True,
    ),
    SmallRun(
        "tests.browser.pictures",
        "--folder {folder}/images --tabs compare --modes dark",
        (r"images/compare-dark\.png$",),
        writes=("images/compare-dark.png",),
        without_rate="it makes pictures",
        opens_page=True,
    ),
)

NOT_RUN: Mapping[str, str] = {
    "tests.benchmarks.trl_side": "tests.benchmarks.against_trl starts it",
    "tests.gpu.check": "tests/gpu/test_check.py runs it whole on a CPU",
    "tests.benchmarks.race": "tests/maintain/test_race_sweep.py runs it, on what it records before",
    "tests.install.wheel": "tests/install/test_wheel.py runs it whole",
    "tests.install.container": "tests/install/test_container.py runs it whole, and its parts",
    "tests.install.visitor": "tests.install.container starts it, within the container's network",
    "tests.site.reference": "tests/site/test_reference.py runs it whole",
    "tests.site.check": "tests/site/test_check.py runs it, on small sites",
    "tests.install.newcomer": "it downloads all packages; tests.install.wheel starts the wheel",
}
"""Scripts that documents name and that have no smallest run, with the reason."""
