"""Each protocol's odd corners, worked out by hand from the public code it follows."""

import numpy as np
import pytest

from sapl_jax.evaluation.protocols import PROTOCOLS, ImageScores, score_image, summarise


def _map(values: list[list[float]]) -> np.ndarray:
    return np.array(values, np.float32)


FOUND_HALF = _map([[0.9, 0.2, 0.2, 0.2]])
MASK = np.array([[255, 255, 0, 0]], np.uint8)


@pytest.mark.parametrize("name", ["sapl", "mvss", "wscl", "benco"])
def test_a_plain_case_gives_every_protocol_the_same_pixel_f1(name: str) -> None:
    scores = score_image(PROTOCOLS[name], 1, 0.7, FOUND_HALF, MASK)
    assert scores.p_f1 == pytest.approx(2 / 3)  # TP 1, FP 0, FN 1
    assert scores.p_iou == pytest.approx(1 / 2)
    assert scores.p_f1_best == pytest.approx(2 / 3)  # all-tampered: 2 * 2 / (2 * 2 + 2)
    assert scores.p_auc == pytest.approx(0.75)  # one of two tampered pixels is tied with the rest


def test_half_is_not_above_the_threshold() -> None:
    assert score_image(PROTOCOLS["sapl"], 1, 0.7, _map([[0.5, 0.0]]), MASK[:, 1:3]).p_f1 == 0.0


@pytest.mark.parametrize(
    ("name", "tampered_level"), [("sapl", 128), ("benco", 128), ("mvss", 1), ("wscl", 1)]
)
def test_grey_mask_levels_count_from_the_protocols_threshold(
    name: str, tampered_level: int
) -> None:
    mask = np.uint8([[tampered_level, tampered_level - 1]])
    assert score_image(PROTOCOLS[name], 1, 0.7, _map([[1.0, 0.0]]), mask).p_f1 == 1.0


def test_sapl_leaves_out_an_empty_mask_but_keeps_the_image_score() -> None:
    scores = score_image(PROTOCOLS["sapl"], 1, 0.7, FOUND_HALF, np.zeros((1, 4), np.uint8))
    assert scores == ImageScores(label=1, score=0.7)


def test_mvss_scores_an_empty_prediction_of_an_empty_mask_as_one() -> None:
    empty = np.zeros((1, 4), np.uint8)
    protocol = PROTOCOLS["mvss"]
    assert score_image(protocol, 1, 0.0, _map([[0.1] * 4]), empty).p_f1 == 1.0
    assert score_image(protocol, 1, 0.0, FOUND_HALF, empty).p_f1 == 0.0


def test_mvss_thresholds_the_map_after_storing_it_in_eight_bits() -> None:
    # 0.5019 is above 0.5, but its 8-bit value is 127: 127 / 255 = 0.498.
    scores = score_image(PROTOCOLS["mvss"], 1, 0.0, _map([[0.5019, 0.0]]), MASK[:, 1:3])
    assert scores.p_f1 == 0.0
    assert scores.score == pytest.approx(127 / 255)
    assert score_image(PROTOCOLS["sapl"], 1, 0.0, _map([[0.5019, 0.0]]), MASK[:, 1:3]).p_f1 == 1.0


def test_mvss_stores_maps_of_authentic_pictures_in_eight_bits_too() -> None:
    scores = score_image(PROTOCOLS["mvss"], 0, 0.0, _map([[0.5019, 0.0]]), None)
    assert scores.score == pytest.approx(127 / 255)


def test_mvss_image_score_is_the_maximum_of_the_map_not_the_models() -> None:
    assert score_image(PROTOCOLS["mvss"], 0, 0.1, _map([[1.0, 0.0]]), None).score == 1.0


def test_wscl_counts_a_picture_with_an_empty_mask_as_authentic() -> None:
    scores = score_image(PROTOCOLS["wscl"], 1, 0.7, FOUND_HALF, np.zeros((1, 4), np.uint8))
    assert (scores.label, scores.p_f1) == (0, None)


def test_wscl_pools_the_map() -> None:
    # Otsu splits off 0.9; at most 4 - (4 // 2 + 1) = 1 pixel counts.
    scores = score_image(PROTOCOLS["wscl"], 0, 0.0, FOUND_HALF, None)
    assert scores.score == pytest.approx(0.9, abs=1e-4)


def test_benco_averages_authentic_pictures_in_as_zero() -> None:
    protocol = PROTOCOLS["benco"]
    authentic = score_image(protocol, 0, 0.2, _map([[0.0] * 4]), None)
    assert (authentic.p_f1, authentic.p_iou, authentic.p_auc) == (0.0, 0.0, 0.0)
    tampered = score_image(protocol, 1, 0.7, FOUND_HALF, MASK)
    assert summarise(protocol, [authentic, tampered])["p_f1"] == pytest.approx(1 / 3)
    unscored = score_image(PROTOCOLS["sapl"], 0, 0.2, FOUND_HALF, None)
    assert summarise(PROTOCOLS["sapl"], [unscored, tampered])["p_f1"] == pytest.approx(2 / 3)


def test_benco_has_no_pixel_measures_when_no_tampered_picture_has_a_mask() -> None:
    protocol = PROTOCOLS["benco"]
    images = [score_image(protocol, label, 0.5, FOUND_HALF, None) for label in (0, 1)]
    assert summarise(protocol, images)["p_f1"] is None


def test_trufor_ignores_pixels_near_the_outline() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[:, 40:] = 255
    heat_map = np.zeros((60, 100), np.float32)
    # Erosion 15 keeps tampered columns from 47 on, dilation 11 authentic ones up to 34: a map
    # that is wrong only in between is perfect.
    heat_map[:, 47:] = 0.9
    heat_map[:, 35:38] = 0.9
    scores = score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask)
    assert (scores.p_f1, scores.p_f1_best, scores.p_auc) == (1.0, 1.0, 1.0)
    heat_map[:, 34] = 0.9
    wrong = score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask)
    assert wrong.p_f1 == pytest.approx(2 * 53 / (2 * 53 + 1))


def test_trufor_takes_the_better_of_the_map_and_its_opposite() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[:, 40:] = 255
    heat_map = np.where(mask > 0, 0.1, 0.8).astype(np.float32)
    scores = score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask)
    assert (scores.p_f1, scores.p_f1_best, scores.p_iou) == (1.0, 1.0, 1.0)
    assert score_image(PROTOCOLS["sapl"], 1, 0.7, heat_map, mask).p_f1 == 0.0


def test_trufor_drops_a_region_that_erosion_removes_unless_something_is_predicted() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[30:35, 50:55] = 255
    protocol = PROTOCOLS["trufor"]
    assert score_image(protocol, 1, 0.7, np.zeros((60, 100), np.float32), mask).p_f1 is None
    heat_map = np.zeros((60, 100), np.float32)
    heat_map[0, 0] = 0.9
    scores = score_image(protocol, 1, 0.7, heat_map, mask)
    assert (scores.p_f1, scores.p_f1_best) == (0.0, 0.0)


def test_image_f1_is_of_the_tampered_class_or_harmonic_by_protocol() -> None:
    # 3 tampered (2 found), 2 authentic (1 false alarm).
    images = [ImageScores(1, s) for s in (0.9, 0.8, 0.1)] + [ImageScores(0, s) for s in (0.6, 0.2)]
    for name in ("sapl", "benco", "trufor"):
        assert summarise(PROTOCOLS[name], images)["i_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    for name in ("mvss", "wscl"):
        sensitivity, specificity = 2 / 3, 1 / 2
        harmonic = 2 * sensitivity * specificity / (sensitivity + specificity)
        assert summarise(PROTOCOLS[name], images)["i_f1"] == pytest.approx(harmonic)
    assert summarise(PROTOCOLS["sapl"], images)["balanced_accuracy"] == pytest.approx(7 / 12)
    # 6 pairs; wrong ones: 0.1 under 0.6 and under 0.2.
    assert summarise(PROTOCOLS["sapl"], images)["i_auc"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_one_class_has_no_image_measures_and_no_mask_no_pixel_measures(name: str) -> None:
    protocol = PROTOCOLS[name]
    images = [score_image(protocol, 1, 0.6, FOUND_HALF, None) for _ in range(2)]
    summary = summarise(protocol, images)
    for measure in ("i_auc", "i_f1", "balanced_accuracy", "p_f1", "p_f1_best", "p_auc", "p_iou"):
        assert summary[measure] is None
    assert (summary["images"], summary["tampered"], summary["masks"]) == (2, 2, 0)


def test_trufor_counts_grey_mask_levels_from_128() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[:, 40:] = 127
    heat_map = np.zeros((60, 100), np.float32)
    assert score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask).p_f1 is None  # An empty mask.
    assert score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask + 1).p_f1 is not None


def test_trufor_drops_a_picture_that_is_all_tampered_and_all_found() -> None:
    heat_map, mask = np.full((60, 100), 0.9, np.float32), np.full((60, 100), 255, np.uint8)
    scores = score_image(PROTOCOLS["trufor"], 1, 0.7, heat_map, mask)
    assert (scores.p_f1, scores.p_iou) == (None, None)


def test_trufor_scores_nothing_where_all_pixels_are_near_the_outline() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[3:5, 3:5] = 255
    scores = score_image(PROTOCOLS["trufor"], 1, 0.7, np.zeros((8, 8), np.float32), mask)
    assert scores == ImageScores(label=1, score=0.7)


def test_mvss_scores_an_empty_mask_by_every_measure_it_can() -> None:
    empty = np.zeros((1, 4), np.uint8)
    scores = score_image(PROTOCOLS["mvss"], 1, 0.0, _map([[0.1] * 4]), empty)
    assert (scores.p_iou, scores.p_f1_best, scores.p_auc) == (1.0, 1.0, None)
    # A threshold above every score predicts nothing.
    assert score_image(PROTOCOLS["mvss"], 1, 0.0, FOUND_HALF, empty).p_f1_best == 1.0


def test_wscl_pools_at_most_half_of_the_pixels_above_otsus_threshold() -> None:
    heat_map = _map([[0.9, 0.8, 0.1, 0.1]])
    assert score_image(PROTOCOLS["wscl"], 0, 0.0, heat_map, None).score == pytest.approx(0.9, 1e-4)


def test_an_image_score_of_half_is_not_above_the_threshold() -> None:
    found = summarise(PROTOCOLS["sapl"], [ImageScores(1, 0.5), ImageScores(0, 0.5)])
    assert (found["balanced_accuracy"], found["i_f1"]) == (0.5, 0.0)


def test_a_missing_image_score_leaves_the_image_measures_out() -> None:
    images = [ImageScores(1, 0.9), ImageScores(0, 0.1), ImageScores(0, float("nan"))]
    found = summarise(PROTOCOLS["sapl"], images)
    assert (found["i_auc"], found["i_f1"], found["balanced_accuracy"]) == (None, None, None)


def test_only_tampered_pictures_count_as_those_with_masks() -> None:
    authentic = score_image(PROTOCOLS["benco"], 0, 0.2, FOUND_HALF, None)
    tampered = score_image(PROTOCOLS["benco"], 1, 0.7, FOUND_HALF, MASK)
    assert summarise(PROTOCOLS["benco"], [authentic, tampered])["masks"] == 1
