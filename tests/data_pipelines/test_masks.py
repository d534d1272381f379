"""Masks of every style come out white = tampered, and fit their picture or say why not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.listing import Outlines
from data_pipelines.masks import load_mask
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import write_picture


def _picture(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def _square(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    grey = np.zeros((height, width), np.uint8)
    grey[rows, columns] = 255
    return grey


def test_white_masks_stay_as_they_are(tmp_path: Path) -> None:
    grey = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60).astype(np.uint8)
    mask = load_mask(write_picture(tmp_path / "m.png", grey), _picture(40, 60))
    np.testing.assert_array_equal(mask.grey, grey)
    assert mask.note is None


def test_white_masks_may_be_zeros_and_ones(tmp_path: Path) -> None:
    grey = _square(40, 60, slice(5, 9), slice(0, 60))
    path = write_picture(tmp_path / "m.png", grey // 255)
    np.testing.assert_array_equal(load_mask(path, _picture(40, 60)).grey, grey)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_masks_of_16_bits_keep_what_they_mark(tmp_path: Path, white: int) -> None:
    stored = np.uint16([[0, white], [white, white]])
    mask = load_mask(write_picture(tmp_path / "m.png", stored), _picture(2, 2))
    assert mask.grey.tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_masks_of_other_numbers_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(UserError, match=r"m\.tif: .*(8 or 16 bits|TIFF data)"):
        load_mask(write_picture(tmp_path / "m.tif", np.ones((2, 2), dtype) * 999), _picture(2, 2))


def test_black_masks_are_inverted(tmp_path: Path) -> None:
    grey = _square(40, 60, slice(5, 9), slice(0, 60))
    path = write_picture(tmp_path / "m.png", 255 - grey)
    np.testing.assert_array_equal(load_mask(path, _picture(40, 60), "black").grey, grey)


def test_nonzero_masks_count_every_level(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.png", np.uint8([[0, 1, 127, 255]]))
    assert load_mask(path, _picture(1, 4), "nonzero").grey.tolist() == [[0, 255, 255, 255]]


def test_a_style_that_does_not_exist_is_not_taken_for_white(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.png", _square(4, 4, slice(2), slice(2)))
    with pytest.raises(ValueError, match="'grey' is no mask style"):
        load_mask(path, _picture(4, 4), "grey")


def test_columbia_palette_survives_jpeg(tmp_path: Path) -> None:
    rgb = np.zeros((64, 96, 3), np.uint8)
    rgb[:, :32] = (255, 0, 0)
    rgb[:, 32:48] = (200, 0, 0)
    rgb[:, 48:64] = (0, 200, 0)
    rgb[:, 64:] = (0, 255, 0)
    path = write_picture(tmp_path / "m_edgemask.jpg", rgb)
    mask = load_mask(path, _picture(64, 96), "columbia")
    np.testing.assert_array_equal(mask.grey, _square(64, 96, slice(None), slice(48, None)))


def test_columbia_masks_that_were_converted_to_grey_are_read_as_white(tmp_path: Path) -> None:
    grey = _square(64, 96, slice(None), slice(48, None))
    path = write_picture(tmp_path / "m_edgemask.png", grey)
    np.testing.assert_array_equal(load_mask(path, _picture(64, 96), "columbia").grey, grey)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_turned_mask_is_turned_to_the_side_where_it_follows_edges(
    tmp_path: Path, turns: int
) -> None:
    grey = _square(40, 60, slice(4, 15), slice(35, 52))
    image = np.repeat(cv2.GaussianBlur(grey, (0, 0), 1)[..., None], 3, axis=2) // 2 + 60
    path = write_picture(tmp_path / "m.png", np.ascontiguousarray(np.rot90(grey, -turns)))
    mask = load_mask(path, image)
    np.testing.assert_array_equal(mask.grey, grey)
    assert mask.note is not None and "turned 90 degrees" in mask.note


def test_a_mask_of_another_size_and_the_same_shape_is_resized(tmp_path: Path) -> None:
    grey = _square(20, 30, slice(0, 10), slice(0, 30))
    mask = load_mask(write_picture(tmp_path / "m.png", grey), _picture(40, 60))
    np.testing.assert_array_equal(mask.grey, _square(40, 60, slice(0, 20), slice(None)))
    assert mask.note == "mask is 30x20, picture 60x40: resized"


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.png", np.zeros((40, 90), np.uint8))
    with pytest.raises(UserError, match="mask is 90x40 but its picture is 60x40"):
        load_mask(path, _picture(40, 60))


def test_outlines_reach_to_the_far_sides_and_round_to_the_nearest_pixel(tmp_path: Path) -> None:
    corners = (29.6, 9.6, 99.0, 9.6, 99.0, 99.0, 29.6, 99.0)
    outlines = Outlines((20, 60), (corners,))
    mask = load_mask(tmp_path / "no.json", _picture(20, 60), outlines)
    np.testing.assert_array_equal(mask.grey, _square(20, 60, slice(10, 20), slice(30, 60)))


@pytest.mark.parametrize(("width", "fits"), [(58, True), (62, True), (55, False), (65, False)])
def test_a_mask_may_be_off_by_a_twentieth_of_its_shape(
    tmp_path: Path, width: int, fits: bool
) -> None:
    path = write_picture(tmp_path / "m.png", np.zeros((40, width), np.uint8))
    if fits:
        assert load_mask(path, _picture(40, 60)).grey.shape == (40, 60)
    else:
        with pytest.raises(UserError, match="shapes do not match"):
            load_mask(path, _picture(40, 60))
