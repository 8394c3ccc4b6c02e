from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.store import RunStore
from ftlab.tabs.results.columns import COLUMNS, EXAMPLE, Condition, matches, parse_conditions
from tests.fakes import make_run, make_sweep


@pytest.mark.parametrize(
    ("text", "key", "sign", "value"),
    [
        ("net peak < 1 GB", "net_peak_memory_bytes", "<", 1e9),
        ("Net Peak<1gb", "net_peak_memory_bytes", "<", 1e9),
        ("net_peak_memory_bytes <= 1.5e9 B", "net_peak_memory_bytes", "<=", 1.5e9),
        ("peak > 2 GiB", "peak_memory_bytes", ">", 2 * 2**30),
        ("file < 500 kB", "adapter_bytes", "<", 5e5),
        ("train >= 30 s", "train_seconds", ">=", 30),
        ("train ≥ 2 min", "train_seconds", ">=", 120),
        ("train > 30", "train_seconds", ">", 30),
        ("score > 0.3", "score_after", ">", 0.3),
        ("score > 30 %", "score_after", ">", 0.3),
        ("loss base > 2", "eval_loss_before", ">", 2),
        ("base loss > 2", "eval_loss_before", ">", 2),
        ("trainable < 1 %", "trainable_share", "<", 0.01),
        ("trainable < 3 M", "trainable_params", "<", 3e6),
        ("share < .5 %", "trainable_share", "<", 0.005),
        ("tok/s > 100", "tokens_per_second", ">", 100),
        ("learning rate = 1e-3", "learning_rate", "=", 1e-3),
        ("seed == 2", "seed", "=", 2),
        ("peak load < 1 GB", "load_peak_bytes", "<", 1e9),
    ],
)
def test_a_condition_is_read_with_its_unit(text: str, key: str, sign: str, value: float) -> None:
    (condition,) = parse_conditions(text)
    assert (condition.key, condition.sign) == (key, sign)
    assert condition.value == pytest.approx(value)


def test_conditions_stand_between_commas_semicolons_or_and() -> None:
    assert len(parse_conditions(EXAMPLE)) == 4
    assert len(parse_conditions("seed = 0 and score > 0.3; train < 1 h,")) == 3
    assert parse_conditions("") == parse_conditions(" , ") == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "nett peak < 1 GB",
            "There is no number 'nett peak'; names: .*memory.*Did you mean 'net peak'",
        ),
        ("status > 1", "There is no number 'status'"),
        ("net peak", "'net peak' is no condition; write a name"),
        ("net peak <", "is no condition"),
        ("net peak < lots", "is no condition"),
        ("net peak < 1", "needs a unit, as in 1 GB; units: B, kB"),
        ("net peak < 1 s", "'s' is no unit of 'memory'; units: B, kB"),
        ("seed = 1 GB", "'GB' is no unit of 'seed'; it takes a bare number"),
        ("score > nan", "is no condition"),
        ("score > 0.3 < 1", "is no unit of 'score'"),
        ("<script>", "is no condition"),
        ("net peak < 1,5 GB", "'1,5': write a number with a point"),
    ],
)
def test_a_wrong_condition_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence) as caught:
        parse_conditions(text)
    assert "\n" not in str(caught.value)


def test_every_name_that_is_offered_can_be_used() -> None:
    numbers = [column for column in COLUMNS.values() if column.kind != "text"]
    with pytest.raises(FtlabError) as caught:
        parse_conditions("zzz < 1")
    names = str(caught.value).partition("names: ")[2].removesuffix(".").split(", ")
    for name, column in zip(names, numbers, strict=True):
        unit = " GB" if column.unit == "bytes" else ""
        assert parse_conditions(f"{name} < 1{unit}")[0].key == column.key


def test_no_condition_is_met_by_a_number_that_is_missing(tmp_path: Path) -> None:
    make_run(tmp_path, status="failed")
    make_run(tmp_path)
    table = RunStore(tmp_path).table()
    for sign in ("<", "<=", ">", ">=", "="):
        found = matches(table, [Condition("score_after", sign, 0.71)])  # type: ignore[arg-type]
        assert not found[table["status"] == "failed"].any()
    assert matches(table, [Condition("score_after", "=", 0.71)]).sum() == 1


def test_all_conditions_have_to_be_met(tmp_path: Path) -> None:
    conditions = parse_conditions("trainable < 50 %, score > 0.6, train < 70 s")
    assert matches(RunStore(tmp_path).table(), conditions).empty, "no row is no error"
    make_sweep(tmp_path)
    table = RunStore(tmp_path).table()
    found = table[matches(table, conditions)]
    assert list(found["method"]) == ["lora"]
