import math

import pytest

from ftlab.charts.serving import (
    COLUMNS,
    pays_from,
    serving_figure,
    serving_finding,
    serving_rows,
    weights_dtype,
    without_file,
)
from ftlab.charts.spec import Facts
from tests.charts.whole_sweep import table_of
from tests.fakes import make_run, make_sweep

MODEL, ADAPTER = 200_000_000, 10_000_000


def of(table, customers):
    return Facts(table, chosen={"customers": customers})


@pytest.fixture
def table(tmp_path):
    return table_of(tmp_path, "adapter_bytes", full=MODEL, lora=ADAPTER)


def test_full_models_are_multiplied_and_adapters_share_one_base(table):
    full, lora = serving_rows(table, 100).to_dict("records")
    assert full["disk_bytes"] == 100 * MODEL
    assert lora["disk_bytes"] == MODEL + 100 * ADAPTER
    assert lora["base_bytes"] == MODEL
    assert (full["relative"], lora["relative"]) == (1.0, 0.06)


def test_weights_take_in_memory_what_their_files_take(table):
    rows = serving_rows(table, 30)
    assert (rows["memory_bytes"] == rows["disk_bytes"]).all()


def test_the_file_of_an_adapter_is_the_mean_over_its_runs(tmp_path):
    table = table_of(tmp_path, "adapter_bytes", full=MODEL, lora=[8_000_000, 12_000_000])
    assert serving_rows(table, 1)["file_bytes"].tolist() == [MODEL, ADAPTER]


@pytest.mark.parametrize(
    ("base", "adapter", "customers"), [(100, 10, 2), (100, 50, 3), (100, 90, 11), (100, 0, 2)]
)
def test_adapters_pay_from_the_first_customer_for_whom_they_take_less(base, adapter, customers):
    assert pays_from(base, adapter) == customers
    assert base + customers * adapter < customers * base
    assert base + (customers - 1) * adapter >= (customers - 1) * base


@pytest.mark.parametrize("adapter", [100, 120])
def test_an_adapter_as_large_as_the_model_never_pays(adapter):
    assert math.isnan(pays_from(100, adapter))


def test_fewer_than_one_customer_is_refused(table):
    with pytest.raises(ValueError, match="customers is 0; it must be at least 1"):
        serving_rows(table, 0)


def test_the_finding_adds_up_both_ways(table):
    assert serving_finding(of(table, 1000)) == (
        "1,000 customers: 1,000 full models take 200.00 GB; one base and 1,000 LoRA adapters take "
        "10.20 GB, 20 times less."
    )


def test_for_one_customer_it_says_that_adapters_take_more_and_when_they_take_less(table):
    assert serving_finding(of(table, 1)) == (
        "1 customer: one full model takes 200 MB; one base and one LoRA adapter take 210 MB, "
        "1.05 times as much. From 2 customers on the adapters take less."
    )


def test_an_adapter_that_is_not_smaller_is_said_never_to_take_less(tmp_path):
    table = table_of(tmp_path, "adapter_bytes", full=MODEL, lora=MODEL)
    text = serving_finding(of(table, 100))
    assert "times less" not in text
    assert text.endswith("not smaller than a full model, so adapters never take less.")


@pytest.mark.parametrize(
    ("runs", "missing"),
    [
        ([], "No run of this sweep is done"),
        ([("lora", {})], "no full fine-tuning run is done"),
        ([("full", {"adapter_bytes": None}), ("lora", {})], "the file of full fine-tuning was not"),
        ([("full", {})], "No adapter is done in this sweep"),
        ([("full", {}), ("lora", {"adapter_bytes": None})], "The file of LoRA was not measured"),
    ],
)
def test_what_is_missing_is_said_and_no_number_is_given(tmp_path, runs, missing):
    make_run(tmp_path, "qlora", status="failed")
    for method, measures in runs:
        make_run(tmp_path, method, measures=measures)
    text = serving_finding(of(table_of(tmp_path), 100))
    assert missing in text
    assert "GB" not in text


def test_without_a_full_models_file_there_is_no_row_and_the_figure_says_so(tmp_path):
    make_run(tmp_path, "lora")
    table = table_of(tmp_path)
    assert serving_rows(table, 10).empty
    assert list(serving_rows(table, 10).columns) == COLUMNS
    assert serving_figure(of(table, 10)).layout.annotations[0].text == "not measured"


def test_variants_whose_file_was_not_measured_are_left_out_by_name(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "prompt_tuning", measures={"adapter_bytes": None})
    table = table_of(tmp_path)
    assert without_file(table) == ["Prompt tuning"]
    assert "Prompt tuning" not in serving_rows(table, 10)["variant"].tolist()


def test_dtypes_are_those_of_the_files_and_unknown_where_they_differ(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    assert weights_dtype(table_of(tmp_path), full=True) == "bfloat16"
    assert weights_dtype(table_of(tmp_path), full=False) == "float32"
    make_run(tmp_path, "qlora", measures={"adapter_dtype": "bfloat16"})
    assert weights_dtype(table_of(tmp_path), full=False) == ""


def test_bars_stack_one_base_and_the_files_of_all_customers(table):
    base, files, text = serving_figure(of(table, 100)).data
    assert list(base.x) == [0, MODEL]
    assert list(files.x) == [100 * MODEL, 100 * ADAPTER]
    assert [words.split() for words in text.text] == [
        ["1.00x", "20.00", "GB"],
        ["0.06x", "1.20", "GB"],
    ]
    assert "100 x 10.0 MB = 1.20 GB" in files.hovertext[1]
    assert "from 2 customers on" in files.hovertext[1]
