"""The measures agree with scikit-learn and with cases counted by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from sapl_jax.metrics import (
    Confusion,
    ScoreHistogram,
    expected_calibration_error,
    reliability,
    roc_auc,
)


def _noisy(rng: np.random.Generator, count: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, count)
    scores = np.clip(0.3 * labels + rng.random(count) * 0.7, 0, 1)
    return labels, np.round(scores * levels) / levels


@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_image_auc_is_the_share_of_pairs_in_order_ties_half(levels: int) -> None:
    labels, scores = _noisy(np.random.default_rng(levels), 300, levels)
    above = scores[labels == 1][:, None] - scores[labels == 0]
    by_pairs = np.mean((above > 0) + (above == 0) / 2)
    assert roc_auc(labels, scores) == pytest.approx(by_pairs, abs=1e-12)


def test_all_scores_tied_is_chance() -> None:
    assert roc_auc(np.array([0, 1, 1]), np.array([0.4, 0.4, 0.4])) == 0.5


def test_auc_of_one_class_is_absent() -> None:
    assert roc_auc(np.array([1, 1]), np.array([0.1, 0.9])) is None


def test_counts_by_hand() -> None:
    predicted = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    truth = np.array([[1, 0, 1, 0], [1, 0, 0, 1]], bool)
    counts = Confusion.of(predicted, truth)
    assert counts == Confusion(tp=2, fp=1, fn=2, tn=3)
    assert counts.f1() == pytest.approx(4 / 7)
    assert counts.iou() == pytest.approx(2 / 5)
    assert counts.inverted() == Confusion.of(~predicted, truth)


def test_nothing_predicted_and_nothing_true_scores_what_the_caller_says() -> None:
    counts = Confusion(0, 0, 0, 9)
    assert (counts.f1(), counts.f1(1.0), counts.iou(1.0)) == (0.0, 1.0, 1.0)


def _best_f1(truth: np.ndarray, scores: np.ndarray) -> float:
    thresholds = [-1.0, *np.unique(scores)]
    return max(Confusion.of(scores > t, truth).f1() for t in thresholds)


@pytest.mark.parametrize("levels", [1, 3, 255])
def test_histogram_measures_are_exact_for_maps_of_few_levels(levels: int) -> None:
    labels, scores = _noisy(np.random.default_rng(levels), 600, levels)
    truth, heat_map = labels.reshape(20, 30) > 0, scores.reshape(20, 30).astype(np.float32)
    histogram = ScoreHistogram.of(heat_map, truth)
    expected = sk.roc_auc_score(truth.ravel(), heat_map.ravel())
    assert histogram.auc() == pytest.approx(expected, abs=1e-9)
    assert histogram.best_f1() == pytest.approx(_best_f1(truth, heat_map))
    inverted = max(_best_f1(truth, heat_map), _best_f1(truth, -heat_map))
    assert histogram.best_f1(invert=True) == pytest.approx(inverted)


def test_histogram_measures_of_a_smooth_map_are_within_its_bin_width() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((200, 300)) < 0.2
    heat_map = np.clip(rng.random((200, 300)) * 0.8 + 0.2 * truth, 0, 1).astype(np.float32)
    histogram = ScoreHistogram.of(heat_map, truth)
    expected = sk.roc_auc_score(truth.ravel(), heat_map.ravel())
    assert histogram.auc() == pytest.approx(expected, abs=2e-5)
    precision, recall, _ = sk.precision_recall_curve(truth.ravel(), heat_map.ravel())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert histogram.best_f1() == pytest.approx(f1.max(), abs=2e-4)


def test_histogram_counts_only_the_kept_pixels() -> None:
    heat_map = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    truth = np.array([[False, True], [False, True]])
    kept = np.array([[True, True], [False, False]])
    assert ScoreHistogram.of(heat_map, truth).auc() == pytest.approx(0.75)
    assert ScoreHistogram.of(heat_map, truth, kept).auc() == 1.0


def test_histogram_is_the_same_when_a_map_is_binned_in_parts(monkeypatch) -> None:
    rng = np.random.default_rng(1)
    heat_map, truth = rng.random((50, 40), np.float32), rng.random((50, 40)) < 0.5
    whole = ScoreHistogram.of(heat_map, truth)
    monkeypatch.setattr("sapl_jax.metrics._CHUNK", 100)
    parts = ScoreHistogram.of(heat_map, truth)
    np.testing.assert_array_equal(whole.tampered, parts.tampered)
    np.testing.assert_array_equal(whole.authentic, parts.authentic)


def test_pooled_score_is_the_mean_above_otsus_threshold() -> None:
    heat_map = np.full((10, 10), 0.1, np.float32)
    heat_map[:2] = 0.9
    nothing = np.zeros((10, 10), bool)
    assert ScoreHistogram.of(heat_map, nothing).otsu_mean() == pytest.approx(0.9, abs=1e-4)
    # 80 bright pixels: at most half of the pixels (here 100 - 51) count, all of them bright.
    assert ScoreHistogram.of(1 - heat_map, nothing).otsu_mean() == pytest.approx(0.9, abs=1e-4)


def test_pooled_score_of_a_flat_map_is_its_value() -> None:
    flat = np.full((4, 4), 0.3, np.float32)
    assert ScoreHistogram.of(flat, flat > 1).otsu_mean() == pytest.approx(0.3, abs=1e-4)


def test_calibration_error_is_the_mean_gap_of_its_bins() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.02, 0.08, 0.95, 1.0])
    np.testing.assert_allclose(reliability(labels, scores), [[0.05, 0.975], [0.5, 1], [2, 2]])
    assert expected_calibration_error(labels, scores) == pytest.approx(0.2375)
    drawn = np.random.default_rng(0).random(20_000)
    truth = np.random.default_rng(1).random(20_000) < drawn
    assert expected_calibration_error(truth, drawn) < 0.02


def test_calibration_error_weighs_bins_by_their_pictures() -> None:
    labels, scores = np.array([0, 0, 0, 1]), np.array([0.1, 0.1, 0.1, 0.5])
    assert expected_calibration_error(labels, scores) == pytest.approx((3 * 0.1 + 0.5) / 4)


def test_a_score_of_one_lies_in_the_last_bin() -> None:
    np.testing.assert_allclose(reliability(np.array([1]), np.array([1.0])), [[1.0], [1.0], [1.0]])


@pytest.mark.parametrize("seed", range(3))
def test_pooling_splits_where_otsu_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.r_[rng.integers(0, 90, 70), rng.integers(120, 256, 20)]
    scores = (steps / 255).astype(np.float32)[None, :]
    between = [
        (steps <= t).mean()
        * (steps > t).mean()
        * (steps[steps <= t].mean() - steps[steps > t].mean()) ** 2
        for t in np.unique(steps)[:-1]
    ]
    above = scores[steps[None, :] > np.unique(steps)[np.argmax(between)]]
    found = ScoreHistogram.of(scores, np.zeros(scores.shape, bool)).otsu_mean()
    assert found == pytest.approx(above.mean(), abs=1e-4)
