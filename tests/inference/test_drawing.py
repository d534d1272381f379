"""Overlay and regions."""

import numpy as np
import pytest

from data_pipelines.images import UnreadableImage
from sapl_jax.inference.drawing import encode_png, heat_map_to_grey, overlay, regions, shrink
from tests.inference.hostile import picture


def test_where_the_map_is_zero_the_picture_stays():
    rgb = picture(40, 60)
    heat_map = np.zeros((40, 60), np.float32)
    np.testing.assert_array_equal(overlay(rgb, heat_map, heat_map > 0.5), rgb)


def test_a_hot_pixel_takes_the_share_of_colour_it_is_given():
    rgb = np.zeros((8, 8, 3), np.uint8)
    heat_map = np.ones((8, 8), np.float32)
    nowhere = np.zeros((8, 8), bool)
    full, half = (overlay(rgb, heat_map, nowhere, opacity).astype(int) for opacity in (1, 0.5))
    assert full[0, 0, 0] > 200 and full[0, 0, 1] > 200 and full[0, 0, 2] < 80  # yellow
    assert np.abs(full - 2 * half).max() <= 2


def test_the_masks_outline_is_drawn_and_its_holes():
    mask = np.zeros((50, 50), bool)
    mask[10:40, 10:40] = True
    mask[20:30, 20:30] = False
    drawn = overlay(np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.float32), mask)
    assert drawn[10, 25].tolist() == [0, 255, 255] and drawn[19, 25].tolist() == [0, 255, 255]
    assert drawn[15, 25].tolist() == [0, 0, 0] and drawn[25, 25].tolist() == [0, 0, 0]


def test_outlines_in_a_panorama_leave_small_regions_visible():
    mask = np.zeros((300, 8000), bool)
    mask[100:114, 100:114] = True
    drawn = overlay(np.zeros((300, 8000, 3), np.uint8), np.zeros((300, 8000), np.float32), mask)
    assert drawn[100, 107].tolist() == [0, 255, 255] and drawn[107, 107].tolist() == [0, 0, 0]


def test_regions_are_boxes_by_size():
    mask = np.zeros((20, 30), bool)
    mask[2:4, 3:8] = True
    mask[10:16, 20:29] = True
    mask[16, 29] = True  # touches the corner of the second
    assert regions(mask) == [
        {"x": 20, "y": 10, "width": 10, "height": 7, "pixels": 55},
        {"x": 3, "y": 2, "width": 5, "height": 2, "pixels": 10},
    ]
    assert regions(np.zeros((5, 5), bool)) == []


def test_png_bytes_hold_the_picture():
    import cv2

    rgb = picture()
    back = cv2.imdecode(np.frombuffer(encode_png(rgb), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(back, cv2.COLOR_BGR2RGB), rgb)


def test_heat_is_rounded_to_the_nearest_grey_level():
    assert heat_map_to_grey(np.float32([[0, 0.3, 0.999, 1]])).tolist() == [[0, 76, 255, 255]]


def test_regions_of_one_size_are_listed_from_the_top():
    mask = np.zeros((20, 30), bool)
    mask[2, 20], mask[8, 3] = True, True
    assert [region["y"] for region in regions(mask)] == [2, 8]


def test_an_outline_is_a_four_hundredth_of_the_picture_wide():
    mask = np.zeros((1200, 1600), bool)
    mask[300:900, 300:900] = True
    drawn = overlay(np.zeros((1200, 1600, 3), np.uint8), np.zeros((1200, 1600), np.float32), mask)
    assert 3 <= drawn[600, :600, 1].astype(bool).sum() <= 6


def test_a_picture_that_png_cannot_hold_is_said_to_have_none():
    with pytest.raises(UnreadableImage, match="a picture of 1000001 x 1 has no PNG"):
        encode_png(np.zeros((1, 1_000_001), np.uint8))


def test_a_picture_is_shrunk_to_its_longer_side_and_never_grown():
    tall = np.zeros((300, 100, 3), np.uint8)
    assert shrink(tall, 150).shape == (150, 50, 3) and shrink(tall, 400).shape == tall.shape
