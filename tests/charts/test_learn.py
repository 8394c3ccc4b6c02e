"""The figures of the Learn tab's first lesson, by their data."""

import numpy as np
import pandas as pd
import pytest

from ftlab.charts.learn import MAP_COLUMNS, change_map, spectrum_figure, spectrum_rows

COLOUR = "#2777e0"


def test_rows_hold_each_directions_share_of_the_energy():
    rows = spectrum_rows(np.array([3.0, 2.0, 1.0]), rank=2)
    assert rows["direction"].tolist() == [1, 2, 3]
    assert rows["energy"].tolist() == pytest.approx([9 / 14, 4 / 14, 1 / 14])
    assert rows["cumulative"].tolist() == pytest.approx([9 / 14, 13 / 14, 1])
    assert rows["kept"].tolist() == [True, True, False]


def test_shares_are_of_all_directions_also_of_those_that_are_not_drawn():
    rows = spectrum_rows(np.ones(100), rank=8, limit=64)
    assert len(rows) == 64
    assert rows["cumulative"].iloc[-1] == pytest.approx(0.64)


def test_a_change_of_nothing_has_no_energy_to_share():
    assert spectrum_rows(np.zeros(3), rank=1)["energy"].tolist() == [0, 0, 0]


def test_kept_directions_are_in_the_colour_and_the_others_are_not():
    (bars,) = spectrum_figure(spectrum_rows(np.array([3.0, 2.0, 1.0]), 2), COLOUR).data
    assert list(bars.y) == [3, 2, 1]
    colours = list(bars.marker.color)
    assert colours[:2] == [COLOUR, COLOUR]
    assert colours[2] != COLOUR
    assert bars.hovertext[1].startswith("direction 2: 2.000<br>28.6 % of the change, 92.9 % with")


def matrices():
    return pd.DataFrame(
        [
            [0, "q_proj", "layers.0.q_proj", 1.0, 1.5, 2],
            [0, "v_proj", "layers.0.v_proj", 2.0, 1.0, 2],
            [1, "q_proj", "layers.1.q_proj", 3.0, 2.0, 2],
            [-1, "<i>", "<i>", 4.0, 1.0, 2],
        ],
        columns=MAP_COLUMNS,
    )


def test_a_cell_is_at_its_layer_and_its_matrix():
    (cells,) = change_map(matrices(), "size", "layers.1.q_proj", COLOUR).data
    grid = np.array(cells.z, dtype=float)
    assert grid.shape == (3, 3)
    assert grid[0].tolist()[:2] == [1, 3]
    assert grid[1, 0] == 2
    assert np.isnan(grid[1, 1])
    assert grid[2, 2] == 4


def test_the_colour_can_say_the_effective_rank_instead():
    (cells,) = change_map(matrices(), "effective_rank", "", COLOUR).data
    assert np.array(cells.z, dtype=float)[0].tolist()[:2] == [1.5, 2]
    assert (cells.zmin, cells.zmax) == (0, 2)


def test_only_the_chosen_matrix_has_a_frame():
    fig = change_map(matrices(), "size", "layers.1.q_proj", COLOUR)
    (frame,) = fig.layout.annotations
    assert (frame.x, frame.y) == (1, 0)
    assert change_map(matrices(), "size", "layers.9.q_proj", COLOUR).layout.annotations == ()


def test_names_from_a_file_are_no_tags_in_the_figure():
    fig = change_map(matrices(), "size", "", COLOUR)
    assert "<i>" not in fig.to_json()
    assert fig.layout.xaxis.ticktext == ("0", "1", "outside")
