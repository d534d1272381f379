"""Perturbations do what their level says, keep the shape, and depend on the seed and name only."""

import cv2
import numpy as np
import pytest

from sapl_jax.evaluation.perturbations import SWEEPS, perturbation

GREY = np.full((200, 300, 3), 128, np.uint8)
TEXTURE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.mark.parametrize("level", [3, 23])
def test_noise_has_the_variance_or_sigma_of_its_level(level: int) -> None:
    rounding = 1 / 12
    by_variance = perturbation(SWEEPS["noise"], level, 0)(GREY, "a")
    assert by_variance.astype(float).var() == pytest.approx(level + rounding, rel=0.03)
    by_sigma = perturbation(SWEEPS["noise_sigma"], level, 0)(GREY, "a")
    assert by_sigma.astype(float).std() == pytest.approx(level, rel=0.03)


def test_noise_is_fixed_by_seed_and_name() -> None:
    draw = perturbation(SWEEPS["noise_sigma"], 7, 0)
    np.testing.assert_array_equal(draw(GREY, "a"), draw(GREY, "a"))
    assert (draw(GREY, "a") != draw(GREY, "b")).any()
    assert (draw(GREY, "a") != perturbation(SWEEPS["noise_sigma"], 7, 1)(GREY, "a")).any()


def test_blur_takes_its_sigma_from_the_kernel() -> None:
    blurred = perturbation(SWEEPS["blur"], 15, 0)(TEXTURE, "a")
    np.testing.assert_array_equal(blurred, cv2.GaussianBlur(TEXTURE, (15, 15), 2.6))


def test_jpeg_keeps_colours_and_loses_more_at_lower_quality() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200

    def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
        return perturbation(SWEEPS["jpeg"], quality, 0)(image, "a")

    assert np.abs(jpeg(red, 90).astype(int) - red).max() <= 3
    errors = [np.abs(jpeg(TEXTURE, q).astype(int) - TEXTURE).mean() for q in (100, 80, 50)]
    assert errors == sorted(errors) and errors[0] < errors[-1]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_level_keeps_shape_and_type_and_leaves_the_input_alone(name: str) -> None:
    before = TEXTURE.copy()
    for level in SWEEPS[name].levels:
        changed = perturbation(SWEEPS[name], level, 0)(TEXTURE, "a")
        assert changed.shape == TEXTURE.shape and changed.dtype == np.uint8
    np.testing.assert_array_equal(TEXTURE, before)


def test_jpeg_has_half_the_chroma_as_opencv_saves() -> None:
    found = perturbation(SWEEPS["jpeg"], 80, 0)(TEXTURE, "a")
    data = cv2.imencode(".jpg", TEXTURE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    np.testing.assert_array_equal(found, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def test_noise_of_another_level_is_drawn_anew() -> None:
    weak, strong = (perturbation(SWEEPS["noise_sigma"], n, 0)(GREY, "a") for n in (7, 15))
    assert abs(np.corrcoef(weak.ravel(), strong.ravel())[0, 1]) < 0.05


def test_noise_is_rounded_and_clipped() -> None:
    draw = perturbation(SWEEPS["noise_sigma"], 23, 0)
    assert draw(GREY, "a").mean() == pytest.approx(128, abs=0.2)
    assert draw(np.full_like(GREY, 255), "a").min() > 100
    assert draw(np.zeros_like(GREY), "a").max() < 155


def test_plain_noise_is_of_a_variance() -> None:
    assert SWEEPS["noise"].unit == "variance"
