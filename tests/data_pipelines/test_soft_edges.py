"""The soft edge map against a plain NumPy version, and its properties."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data_pipelines.soft_edges import (
    EdgeOptions,
    canny_edges,
    decay,
    soft_edge_map,
    soft_edges_from,
)
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import noise


def brute_force(edges: np.ndarray, options: EdgeOptions) -> np.ndarray:
    """exp(-alpha D) with D from all pairs of pixels."""
    alpha = min(max(options.kappa * edges.mean(), options.alpha_min), options.alpha_max)
    pixels = np.argwhere(np.ones_like(edges))
    distance = np.linalg.norm(pixels[:, None] - np.argwhere(edges)[None], axis=-1).min(axis=1)
    return np.exp(-alpha * distance).reshape(edges.shape)


@pytest.mark.parametrize("density", [0.002, 0.05, 0.4])
def test_soft_edges_match_distances_over_all_pairs(density: float) -> None:
    edges = np.random.default_rng(0).random((37, 29)) < density
    edges[5, 7] = True
    found = soft_edges_from(edges)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, brute_force(edges, EdgeOptions()), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
# 700: the last that is computed in float32, which is too coarse at 1500.
@pytest.mark.parametrize("side", [700, 701, 1500])
def test_distances_are_exact_over_a_whole_large_picture(side: int, threads: int) -> None:
    edges = np.zeros((side, side), bool)
    edges[0, 0] = True
    distance = np.hypot(*np.indices(edges.shape)).astype(np.float32)
    expected = np.exp(distance * np.float32(-decay(edges)))
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        np.testing.assert_array_equal(soft_edges_from(edges), expected)
    finally:
        cv2.setNumThreads(before)


def test_map_of_a_picture_is_the_map_of_its_canny_edges() -> None:
    picture = noise(1)
    edges = canny_edges(picture)
    assert 0 < edges.sum() < edges.size
    found = soft_edge_map(picture)
    np.testing.assert_allclose(found, brute_force(edges, EdgeOptions()), atol=1e-5)
    assert (found[edges] == 1).all() and found.min() >= 0 and (found[~edges] < 1).all()


def test_map_falls_with_the_distance_to_a_straight_edge() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 255
    found = soft_edge_map(picture)
    column = int(found[20].argmax())
    assert abs(column - 30) <= 1
    assert (np.diff(found[20, column:]) < 0).all() and (np.diff(found[20, : column + 1]) > 0).all()


def test_picture_without_edges_gives_zeros() -> None:
    assert not soft_edge_map(np.full((20, 30, 3), 90, np.uint8)).any()


def test_map_is_the_same_to_the_last_bit_every_time() -> None:
    pictures = [noise(seed) for seed in range(10)]
    first = [soft_edge_map(picture) for picture in pictures]
    for _ in range(20):
        for picture, expected in zip(pictures, first, strict=True):
            np.testing.assert_array_equal(soft_edge_map(picture), expected)


def test_decay_follows_the_share_of_edges_within_its_bounds() -> None:
    edges = np.zeros((100, 100), bool)
    assert decay(edges) == 1 / 64
    edges[:10] = True
    assert decay(edges) == pytest.approx(2 * 0.1)
    assert decay(~edges) == 1 / 2


@pytest.mark.parametrize(
    "wrong", [{"kappa": 0}, {"alpha_min": 1, "alpha_max": 0.5}, {"canny_low": 300}]
)
def test_impossible_options_are_a_user_error(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected"):
        EdgeOptions(**wrong)


def test_edges_are_those_of_the_luma_by_the_euclidean_gradient() -> None:
    red, blue, weak, strong = (np.zeros((40, 40, 3), np.uint8) for _ in range(4))
    red[:, 20:, 0] = blue[:, 20:, 2] = 200  # 60 and 23 grey levels
    assert canny_edges(red).any() and not canny_edges(blue).any()
    # Over a diagonal step of s levels the gradient is 4.2 s; the sum of its parts would be 6 s.
    weak[np.tri(40, dtype=bool)], strong[np.tri(40, dtype=bool)] = 40, 60
    assert canny_edges(strong).any() and not canny_edges(weak).any()


def test_every_option_is_taken_from_the_configuration() -> None:
    image = SimpleNamespace(
        edge_kappa=3.0, edge_alpha_min=0.1, edge_alpha_max=0.4, canny_low=10.0, canny_high=20.0
    )
    assert EdgeOptions.from_config(image) == EdgeOptions(3.0, 0.1, 0.4, 10.0, 20.0)


def test_options_reach_both_the_edges_and_their_decay() -> None:
    picture, options = noise(1), EdgeOptions(0.5, 0.01, 0.3, 20.0, 40.0)
    edges = canny_edges(picture, options)
    assert edges.sum() > canny_edges(picture).sum()
    found = soft_edge_map(picture, options)
    np.testing.assert_allclose(found, brute_force(edges, options), atol=1e-5)
