"""Photos, filters, and the change between them as a matrix."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import missed, rank_for
from ftlab.learn.photo import (
    FILTERS,
    HEAT_SIDES,
    LESS,
    MAX_SIDE,
    MORE,
    as_matrix,
    as_picture,
    grey_levels,
    heat_address,
    heat_scale,
    photo_address,
    read_photo,
    shipped_photos,
    take_apart,
)


@pytest.fixture
def photo():
    """A picture with broad shapes and fine detail, away from black and white."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:40, 0:60]
    broad = 128 + 40 * np.sin(down / 9)[..., None] * np.cos(across / 13)[..., None]
    return np.clip(broad + rng.normal(0, 12, (40, 60, 3)), 40, 200).astype(np.float32)


def saved(tmp_path, image, name="photo.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("filter_id", FILTERS)
def test_a_filter_stays_within_the_grey_levels_and_all_ranks_give_it_back(photo, filter_id):
    before = photo.copy()
    filtered = FILTERS[filter_id](photo)
    assert np.array_equal(photo, before)
    assert filtered.shape == photo.shape
    assert filtered.dtype == np.float32
    assert filtered.min() >= 0
    assert filtered.max() <= 255
    assert not np.array_equal(filtered, photo)
    whole = take_apart(photo, filtered, top=None)
    shown = whole.laid_over(min(whole.change.shape)).astype(int)
    assert np.abs(shown - grey_levels(filtered).astype(int)).max() <= 1
    assert whole.mean_error(min(whole.change.shape)) < 0.01


@pytest.mark.parametrize("filter_id", ["warm", "cool", "window"])
def test_a_filter_that_adds_the_same_everywhere_has_rank_one(filter_id):
    photo = np.random.default_rng(1).uniform(80, 170, (30, 50, 3)).astype(np.float32)
    values = take_apart(photo, FILTERS[filter_id](photo)).change.values
    assert missed(values, 1) < 1e-5


def test_fine_detail_needs_far_more_ranks_than_a_colour_change(photo):
    needed = {
        name: rank_for(take_apart(photo, FILTERS[name](photo)).change.values, 0.9)
        for name in ("sepia", "vignette", "blur", "sharpen")
    }
    assert max(needed["sepia"], needed["vignette"]) * 3 < min(needed["blur"], needed["sharpen"])


def test_the_matrix_holds_red_green_and_blue_side_by_side(photo):
    matrix = as_matrix(photo)
    assert matrix.shape == (40, 180)
    assert np.array_equal(matrix[:, 60:120], photo[:, :, 1])
    assert np.array_equal(as_picture(matrix), photo)


def test_the_error_falls_with_the_rank(photo):
    cut = take_apart(photo, FILTERS["sepia"](photo))
    errors = [cut.mean_error(rank) for rank in (1, 4, 16, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


def test_a_large_photo_is_scaled_down_and_keeps_its_shape(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (2400, 1600), "red"), "large.jpg")
    assert read_photo(path).shape == (200, MAX_SIDE, 3)


def test_a_single_pixel_and_a_thin_line_are_photos_too(tmp_path):
    pixel = read_photo(saved(tmp_path, Image.new("RGB", (1, 1), (10, 20, 30))))
    assert pixel.tolist() == [[[10, 20, 30]]]
    line = read_photo(saved(tmp_path, Image.new("RGB", (4000, 2), "red")))
    assert line.shape == (1, MAX_SIDE, 3)
    assert take_apart(line, FILTERS["sepia"](line)).change.top == 1


def test_what_can_be_seen_through_becomes_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_photo(saved(tmp_path, clear)).min() == 255
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert read_photo(saved(tmp_path, half)).mean() == pytest.approx(127, abs=1)
    palette = Image.new("P", (4, 4), 0)
    assert read_photo(saved(tmp_path, palette, "p.png", transparency=0)).min() == 255


def test_grey_photos_of_8_and_16_bits_are_read_as_rgb(tmp_path):
    ramp = np.linspace(0, 255, 12).astype(np.uint8).reshape(3, 4)
    eight = read_photo(saved(tmp_path, Image.fromarray(ramp)))
    assert np.array_equal(eight, np.repeat(ramp[..., None], 3, axis=2))
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert np.abs(read_photo(saved(tmp_path, deep)) - eight).max() <= 1


def test_a_photo_taken_on_its_side_stands_upright(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    assert read_photo(saved(tmp_path, image, "turned.jpg", exif=exif)).shape == (20, 10, 3)


def in_format(kind, size=(4, 4)):
    data = io.BytesIO()
    Image.effect_noise(size, 60).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 30,
        in_format("png", (40, 60))[:1500],
        # Pillow reads many more formats, and starts a program for some (Ghostscript for EPS).
        in_format("ppm"),
        in_format("eps"),
    ],
    ids=["empty", "text", "no data", "cut off", "ppm", "eps"],
)
def test_a_file_that_is_no_picture_of_a_known_format_is_one_sentence_with_its_name(tmp_path, data):
    path = tmp_path / "not\x1b a photo.png"
    path.write_bytes(data)
    with pytest.raises(FtlabError, match=re.escape("'not? a photo.png' is no picture that can be")):
        read_photo(path)


@pytest.mark.parametrize("side", [8000, 14000])
def test_a_picture_with_too_many_pixels_is_refused_before_it_fills_the_memory(tmp_path, side):
    path = saved(tmp_path, Image.new("1", (side, side)))
    with pytest.raises(FtlabError, match="at most 50 million"):
        read_photo(path)


def test_only_photos_that_are_there_can_be_chosen(tmp_path):
    saved(tmp_path, Image.new("RGB", (2, 2)), "lion.png")
    assert list(shipped_photos(tmp_path, [("Lion", "lion.png"), ("Bus", "bus.png")])) == ["Lion"]


def opened(address):
    kind, _, data = address.partition(";base64,")
    assert kind.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_photo_address_holds_the_picture(photo):
    image = opened(photo_address(grey_levels(photo)))
    assert image.size == (60, 40)
    assert np.abs(np.asarray(image, float) - photo).mean() < 6


def test_a_heat_picture_shows_sign_by_colour_and_size_by_opacity():
    image = opened(heat_address(np.array([[2.0, 0.5, 0.0, -1.0]], np.float32), scale=1.0))
    plus, half, zero, minus = np.asarray(image.convert("RGBA"))[0].tolist()
    assert plus == [*MORE, 255]
    assert half[:3] == [*MORE]
    assert half[3] == pytest.approx(128, abs=2)
    assert zero[3] <= 1
    assert minus == [*LESS, 255]


def test_a_heat_picture_of_zeros_is_clear_and_a_large_one_is_averaged_down():
    clear = opened(heat_address(np.zeros((3, 4), np.float32), heat_scale(np.zeros((3, 4)))))
    assert np.asarray(clear.convert("RGBA"))[..., 3].max() <= 1
    large = opened(heat_address(np.ones((400, 900), np.float32), 1.0))
    assert (large.height, large.width) == HEAT_SIDES
