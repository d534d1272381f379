"""Resizing, padding, patch pooling and valid patches."""

import numpy as np
import pytest

from data_pipelines.preprocess import (
    PADDING,
    PAPER_GEOMETRY,
    Geometry,
    patch_edge_map,
    preprocess,
    resize,
    valid_patches,
)
from data_pipelines.soft_edges import EdgeOptions, soft_edge_map
from sapl_jax.models.sapl import CLIP_MEAN
from tests.data_pipelines.picture_trees import SMALL, noise


def test_paper_geometry_loses_no_pixel() -> None:
    assert (PAPER_GEOMETRY.canvas, PAPER_GEOMETRY.grid) == (518, 37)
    assert Geometry(56, 14).canvas == 56


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((48, 96), (32, 64)), ((30, 10), (64, 21)), ((500, 1), (64, 1)), ((20, 30), (43, 64))],
)
def test_longer_side_becomes_the_size(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize(np.zeros((*shape, 3), np.uint8), SMALL).shape[:2] == expected


def test_picture_of_the_right_size_keeps_every_pixel() -> None:
    picture = noise(0, 40, 64)
    result = preprocess(picture, SMALL)
    assert result.resized == (40, 64)
    np.testing.assert_array_equal(result.image[:40, :64], picture)
    assert (result.image[42:] == PADDING).all() and (result.image[:, 70:] == PADDING).all()


def test_what_the_last_patches_lack_is_mirrored() -> None:
    picture = noise(0, 45, 64)  # 45: a quarter of a patch is left over, which is no valid patch
    image = preprocess(picture, SMALL).image
    np.testing.assert_array_equal(
        image[:56, :70], np.pad(picture, ((0, 11), (0, 6), (0, 0)), "reflect")
    )
    assert (image[56:] == PADDING).all()
    one = preprocess(picture[:, :1].repeat(2, axis=0)[:64], SMALL).image
    assert (one[:64, :14] == one[:64, :1]).all() and (one[:, 14:] == PADDING).all()


@pytest.mark.parametrize("times", [2, 3])  # by 2 linear interpolation would do the same
def test_shrinking_averages_areas(times: int) -> None:
    picture = noise(0, 64 * times, 64 * times)
    blocks = picture.reshape(64, times, 64, times, 3).mean(axis=(1, 3))
    assert np.abs(resize(picture, SMALL) - blocks).max() <= 1


def test_growing_is_cubic_and_overshoots_at_edges() -> None:
    picture = np.full((32, 32, 3), 50, np.uint8)
    picture[:, 16:] = 200
    grown = resize(picture, SMALL)
    assert grown.min() < 50 and grown.max() > 200


def test_padding_is_about_zero_once_normalised() -> None:
    assert np.abs(np.divide(PADDING, 255) - CLIP_MEAN).max() < 0.003


def test_patches_with_half_their_pixels_inside_are_valid() -> None:
    for height, width in [(64, 64), (7, 64), (6, 64), (64, 21), (1, 1)]:
        inside = np.zeros((SMALL.canvas, SMALL.canvas))
        inside[:height, :width] = 1
        share = inside.reshape(5, 14, 5, 14).mean(axis=(1, 3))
        np.testing.assert_array_equal(valid_patches(height, width, SMALL), share >= 0.5)


def test_patch_map_is_the_mean_over_the_picture_where_valid_and_zero_elsewhere() -> None:
    picture = noise(2, 40, 64)
    full = np.full((70, 70), np.nan)
    full[:40, :64] = soft_edge_map(picture)
    found = patch_edge_map(picture, SMALL)
    options = EdgeOptions(kappa=0.5, canny_low=20, canny_high=40)
    alike, other = (patch_edge_map(picture, SMALL, o) for o in (EdgeOptions(), options))
    np.testing.assert_array_equal(alike, found)
    assert np.abs(other - found).max() > 0.05
    np.testing.assert_array_equal(preprocess(picture, SMALL, options).edge_map, other)
    valid = valid_patches(40, 64, SMALL)
    assert found.dtype == np.float32 and not valid.all() and valid.any()
    for row in range(5):
        for column in range(5):
            block = full[14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
            expected = np.nanmean(block) if valid[row, column] else 0.0
            assert found[row, column] == pytest.approx(expected, abs=1e-6)


def test_padding_makes_no_edge() -> None:
    plain = np.full((30, 64, 3), 250, np.uint8)
    assert not preprocess(plain, SMALL).edge_map.any()
