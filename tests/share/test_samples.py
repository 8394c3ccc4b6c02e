"""Answers side by side."""

from __future__ import annotations

from pathlib import Path

from ftlab.share.report_sections import EXAMPLES, Samples, samples_of, samples_section
from tests.fakes import make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of, scored


def found(folder: Path, first: str = "") -> Samples:
    samples = samples_of(data_of(folder), first)
    assert samples is not None
    return samples


def test_the_first_examples_are_answered_by_each_base_and_each_variant(tmp_path: Path) -> None:
    make_sweep(tmp_path, samples=scored([1.0] * 40))
    for base in tmp_path.glob("*-base"):
        (base / "samples.jsonl").unlink()
        (base / "samples.jsonl").write_bytes(
            (next(tmp_path.glob("*-lora")) / "samples.jsonl").read_bytes()
        )
    samples = found(tmp_path)
    assert [speaker.label for speaker in samples.speakers] == [
        "Base bf16", "Base nf4", "Full fine-tuning", "LoRA", "QLoRA", "Prompt tuning",
    ]  # fmt: skip
    assert len(samples.examples) == EXAMPLES
    assert samples.examples[0] == ("question 0", "answer 0")
    assert samples.total == 40
    section = samples_section(samples)
    assert f"The first {EXAMPLES} of 40 test examples" in section
    assert section.count("<article") == EXAMPLES


def test_the_answer_of_the_base_is_the_one_before_training(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("lora",))
    samples = found(tmp_path)
    base, lora = samples.speakers
    key = samples.examples[0]
    assert base.answers[key].text == "The number of singers over 30 can be found in the age column."
    assert base.answers[key].verdict == "no SQL"
    assert lora.answers[key].text == "SELECT count(*) FROM singers WHERE age > 30"


def test_of_a_variant_the_lowest_seed_speaks(tmp_path: Path) -> None:
    for seed, word in ((2, "late"), (1, "early")):
        rows = scored([1.0])
        rows[0]["answer_after"] = word
        make_run(tmp_path, "lora", seed=seed, samples=rows)
    samples = found(tmp_path)
    (lora,) = samples.speakers
    assert lora.answers[samples.examples[0]].text == "early"


def test_who_was_not_asked_has_not_answered(tmp_path: Path) -> None:
    make_run(tmp_path, "full", samples=scored([1.0, 1.0, 1.0]))
    make_run(tmp_path, "lora", samples=scored([1.0])[:1])
    samples = found(tmp_path)
    assert samples_section(samples).count("not answered") == 2


def test_verdicts_are_words_and_a_score_without_words_is_a_number(tmp_path: Path) -> None:
    rows = scored([1.0, 0.0, 0.314])
    rows[2]["verdict_after"] = ""
    make_run(tmp_path, "lora", samples=rows)
    samples = found(tmp_path)
    section = samples_section(samples)
    assert '<span class="chip ok">runs, equal</span>' in section
    assert '<span class="chip bad">runs, differs</span>' in section
    assert '<span class="chip ">score 0.31</span>' in section


def test_of_many_variants_the_named_one_and_full_fine_tuning_have_a_place(tmp_path: Path) -> None:
    for rank in range(1, 14):
        make_run(tmp_path, "lora", hyperparameters={"r": rank})
    make_run(tmp_path, "full")
    samples = found(tmp_path, "LoRA r=13")
    labels = [speaker.label for speaker in samples.speakers]
    assert len(labels) == 8
    assert {"LoRA r=13", "Full fine-tuning"} <= set(labels)
    assert samples.left_out == 6
    assert "6 further variants not shown" in samples_section(samples)


def test_samples_that_cannot_be_read_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    broken = next(tmp_path.glob("*-lora")) / "samples.jsonl"
    broken.unlink()
    broken.mkdir()
    samples = found(tmp_path)
    assert "LoRA" not in [speaker.label for speaker in samples.speakers]
    assert "lora cannot be read" in samples.notes[0]


def test_without_samples_there_is_nothing_to_show(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", samples=[])
    assert samples_of(data_of(tmp_path)) is None


def test_records_of_any_shape_are_shown_as_text(tmp_path: Path) -> None:
    make_run(
        tmp_path, "lora",
        samples=[
            {"prompt": HOSTILE, "answer_after": HOSTILE, "verdict_after": HOSTILE, "reference": 7},
            {"prompt": [1, {"role": "system", "content": HOSTILE}], "answer_after": ["x"]},
            {"prompt": None, "answer_after": "", "score_after": "high"},
            {"answer_after": "x" * 5000},
        ],
    )  # fmt: skip
    samples = found(tmp_path)
    section = samples_section(samples)
    assert "<script" not in section
    assert "<img" not in section
    assert "[system] &lt;/script&gt;" in section
    assert "x" * 801 not in section
