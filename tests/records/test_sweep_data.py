import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.store import RunStore, sweep_data
from tests.fakes import SWEEP, make_sweep


def test_base_runs_are_no_rows_but_are_there(tmp_path):
    make_sweep(tmp_path)
    data = sweep_data(RunStore(tmp_path), SWEEP)
    assert data.origin == "measured"
    assert len(data.table) == len(data.own_runs)
    assert data.base_runs
    assert len(data.runs) == len(data.own_runs) + len(data.base_runs)


def test_a_sweep_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FtlabError, match="There is no sweep 'gone'"):
        sweep_data(RunStore(tmp_path), "gone")
