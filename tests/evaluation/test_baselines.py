"""NOI1 and CFA1 find what they are made to find, block by block, at any size."""

import cv2
import numpy as np
import pytest

from sapl_jax.evaluation import baselines


def _noisy_picture(rng: np.random.Generator, sigma: np.ndarray) -> np.ndarray:
    ramp = np.linspace(60, 180, sigma.shape[1], dtype=np.float32)[None, :]
    luma = ramp + rng.standard_normal(sigma.shape) * sigma
    return np.repeat(np.clip(np.rint(luma), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _two_noises(height: int = 160, width: int = 192) -> tuple[np.ndarray, np.ndarray]:
    pasted = np.zeros((height, width), bool)
    pasted[32:96, 48:112] = True
    return _noisy_picture(np.random.default_rng(0), np.where(pasted, 12.0, 3.0)), pasted


def test_the_wavelet_filter_is_orthonormal() -> None:
    low, high = baselines._DB8_LOW, baselines._DB8_HIGH
    assert low.sum() == pytest.approx(np.sqrt(2))
    assert high.sum() == pytest.approx(0, abs=1e-9)
    for shift in range(0, 8, 2):
        assert low[shift:] @ low[: 8 - shift] == pytest.approx(float(shift == 0), abs=1e-9)
    assert low @ high == pytest.approx(0, abs=1e-12)


def test_noise_levels_are_the_sigmas_that_were_added() -> None:
    image, _ = _two_noises()
    levels = baselines.noise_levels(image)
    assert levels.shape == (10, 12)
    assert np.median(levels[2:6, 3:7]) == pytest.approx(12, rel=0.15)
    assert np.median(levels[6:]) == pytest.approx(3, rel=0.15)


def test_noi1_marks_the_region_of_other_noise() -> None:
    image, pasted = _two_noises()
    analysis = baselines.CLASSICS["noi1"].analyse([image])[0]
    assert analysis.heat_map.shape == pasted.shape
    assert (analysis.heat_map[pasted] > 0.5).mean() > 0.9
    assert (analysis.heat_map[~pasted] > 0.5).mean() < 0.1
    even = _noisy_picture(np.random.default_rng(1), np.full((160, 192), 3.0))
    clean = baselines.CLASSICS["noi1"].analyse([even])[0]
    assert analysis.score > clean.score


def _mosaiced(rng: np.random.Generator, height: int = 128, width: int = 128) -> np.ndarray:
    """A picture whose green was measured on one checkerboard and interpolated on the other."""
    scene = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 1.0)
    scene = (scene - scene.min()) / np.ptp(scene) * 200 + 20
    rows, columns = np.indices(scene.shape)
    cross = np.array([[0, 0.25, 0], [0.25, 0, 0.25], [0, 0.25, 0]], np.float32)
    green = np.where((rows + columns) % 2 == 0, scene, cv2.filter2D(scene, -1, cross))
    return np.repeat(np.rint(green).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("shift", [0, 1])
def test_cfa1_marks_the_region_without_demosaicing_traces(shift: int) -> None:
    rng = np.random.default_rng(2)
    image = _mosaiced(rng)[:, shift:]
    scene = cv2.GaussianBlur(rng.random((64, 48)).astype(np.float32), (0, 0), 1.0)
    pasted = np.rint((scene - scene.min()) / np.ptp(scene) * 200 + 20).astype(np.uint8)
    image[32:96, 40:88] = pasted[..., None]
    evidence = baselines.cfa_evidence(image)
    assert np.median(evidence) > 1 and abs(np.median(evidence[5:11, 6:10])) < 0.5
    heat_map = baselines.CLASSICS["cfa1"].analyse([image])[0].heat_map
    assert heat_map[40:88, 48:80].mean() > 0.8
    assert heat_map[:24].mean() < 0.2


def test_absence_probability_separates_two_gaussians() -> None:
    rng = np.random.default_rng(3)
    evidence = np.concatenate([rng.normal(0, 0.3, 300), rng.normal(3, 0.5, 700)])
    probability = baselines.absence_probability(evidence)
    assert (probability[:300] > 0.5).mean() > 0.98 and (probability[300:] < 0.5).mean() > 0.98


@pytest.mark.parametrize("name", baselines.CLASSICS)
def test_working_in_strips_changes_nothing(name: str, monkeypatch) -> None:
    image, _ = _two_noises()
    whole = baselines.CLASSICS[name].analyse([image])[0]
    monkeypatch.setattr(baselines, "_STRIP", 32)
    strips = baselines.CLASSICS[name].analyse([image])[0]
    np.testing.assert_allclose(whole.heat_map, strips.heat_map, atol=1e-4)


@pytest.mark.parametrize("name", baselines.CLASSICS)
@pytest.mark.parametrize("size", [(1, 1), (5, 300), (17, 33)])
def test_any_size_gives_a_finite_map_of_that_size(name: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(4).integers(0, 256, (*size, 3), np.uint8)
    analysis = baselines.CLASSICS[name].analyse([image])[0]
    assert analysis.heat_map.shape == size and np.isfinite(analysis.heat_map).all()
    assert analysis.heat_map.min() >= 0 and analysis.heat_map.max() <= 1
    assert 0 <= analysis.score <= 1


@pytest.mark.parametrize("name", baselines.CLASSICS)
def test_a_flat_picture_is_not_an_error(name: str) -> None:
    analysis = baselines.CLASSICS[name].analyse([np.full((64, 64, 3), 128, np.uint8)])[0]
    assert np.isfinite(analysis.score) and np.isfinite(analysis.heat_map).all()


def test_noi1_is_half_at_three_robust_deviations_and_scores_the_strongest_hundredth(
    monkeypatch,
) -> None:
    levels = np.array([-1.0, 0.0, 1.0] * 33 + [3 * 1.4826]).reshape(10, 10)
    monkeypatch.setattr(baselines, "noise_levels", lambda _: np.exp(levels) - 0.1)
    assert baselines.noi1(np.zeros((160, 160, 3), np.uint8)).score == pytest.approx(0.5)


def test_cfa1_looks_at_the_green_channel() -> None:
    image = _mosaiced(np.random.default_rng(2))
    expected = baselines.cfa_evidence(image)
    image[..., 0], image[..., 2] = 0, 255
    np.testing.assert_array_equal(baselines.cfa_evidence(image), expected)


def test_blocks_stay_in_place_where_the_picture_ends_inside_one() -> None:
    blocks = np.array([[0.2, 0.4, 0.6]] * 2)
    found = baselines._of_blocks(blocks, 8, np.zeros((9, 17, 3), np.uint8)).heat_map
    assert found.shape == (9, 17)
    assert found[0, 11:13].mean() == pytest.approx(0.4)  # The middle of the second block.


def test_random_cells_fill_a_picture_that_is_not_square() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    assert baselines.random_guess(image).heat_map.shape == (20, 60)
