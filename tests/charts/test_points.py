import pytest

from ftlab.charts.points import WIDTHS, Spot, place_labels

HEIGHT = 250


def spot(x, y, text="LoRA r=16"):
    return Spot(x, y, text, (x, x), (y, y))


def boxes(spots, width, **options):
    places = place_labels(spots, HEIGHT, len(spots), **options)
    return [
        place.box(spot.x * width, spot.y * HEIGHT, 6.7 * len(spot.text))
        for spot, place in zip(spots, places, strict=True)
        if place is not None
    ]


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


CLOSE = [spot(0.40 + 0.03 * i, 0.5 + 0.04 * (i % 2)) for i in range(6)]


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_names_of_points_that_lie_close_do_not_overlap(width):
    found = boxes(CLOSE, width)
    assert len(found) >= 4
    assert not any(overlap(a, b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_no_name_covers_a_point(width):
    for left, low, right, high in boxes(CLOSE, width):
        for point in CLOSE:
            inside = left < point.x * width < right and low < point.y * HEIGHT < high
            assert not inside


@pytest.mark.parametrize("corner", [(0.01, 0.01), (0.99, 0.99), (0.01, 0.99), (0.99, 0.01)])
def test_a_name_stays_within_the_plot(corner):
    for width in WIDTHS:
        ((left, low, right, high),) = boxes([spot(*corner)], width)
        assert left >= 0
        assert right <= width
        assert low >= 0
        assert high <= HEIGHT


def test_a_lone_point_has_its_name_beside_it_without_a_line():
    (place,) = place_labels([spot(0.5, 0.5)], HEIGHT, 1)
    assert place is not None
    assert not place.far
    assert place.annotation()["showarrow"] is False


def test_a_name_that_is_far_from_its_point_has_a_line_to_it():
    crowd = [spot(0.5 + 0.02 * i, 0.5 + 0.02 * j) for i in range(-3, 4) for j in range(-3, 4)]
    middle = spot(0.5, 0.5)
    (place,) = place_labels([middle, *crowd], HEIGHT, 1)
    assert place is not None
    assert place.far
    assert place.annotation()["showarrow"] is True


def test_only_so_many_names_as_asked_for_get_a_place():
    assert len(place_labels([spot(0.2, 0.2), spot(0.8, 0.8)], HEIGHT, 1)) == 1
    assert place_labels([], HEIGHT, 0) == []


def test_the_earlier_name_has_the_choice():
    same = [spot(0.5, 0.5, "first"), spot(0.5, 0.5, "second")]
    first, second = place_labels(same, HEIGHT, 2)
    assert first == place_labels(same[:1], HEIGHT, 1)[0]
    assert second != first


def test_no_label_crosses_the_line():
    across = [(0.0, 0.5), (1.0, 0.5)]
    for width in WIDTHS:
        ((_, low, _, high),) = boxes([spot(0.5, 0.5)], width, line=across)
        assert not low < 0.5 * HEIGHT < high
