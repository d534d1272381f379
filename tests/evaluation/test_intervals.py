"""The bootstrap agrees with the plain measures, covers what it should, and pairs methods."""

import numpy as np
import pytest

from sapl_jax.evaluation import intervals
from sapl_jax.evaluation.protocols import PROTOCOLS, ImageScores, measures, summarise
from sapl_jax.metrics import roc_auc


def _images(seed: int, count: int = 60, shift: float = 0.2) -> dict[str, ImageScores]:
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        label = int(number % 3 > 0)
        score = round(float(np.clip(rng.normal(0.45 + shift * label, 0.2), 0, 1)), 1)  # with ties
        pixels = rng.random(4).tolist() if label and number % 5 else [None] * 4
        found[str(number)] = ImageScores(label, score, *pixels)
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pictures_that_count_once_or_twice_give_the_measures_of_that_data_set(name) -> None:
    protocol, images = PROTOCOLS[name], list(_images(0).values())
    weights = np.random.default_rng(1).integers(0, 3, (2, len(images)))
    found = measures(protocol, images, weights.astype(float))
    for draw, row in enumerate(weights):
        drawn = [image for image, times in zip(images, row, strict=True) for _ in range(times)]
        expected = summarise(protocol, drawn)
        labels, scores = ([getattr(i, key) for i in drawn] for key in ("label", "score"))
        assert expected["i_auc"] == pytest.approx(roc_auc(labels, scores))
        for measure, values in found.items():
            assert values[draw] == pytest.approx(expected[measure]), measure


def test_draws_repeat_keep_the_classes_sizes_and_do_not_depend_on_memory(monkeypatch) -> None:
    images = _images(0)
    whole = next(intervals._weights(images))
    assert whole.shape == (intervals.DRAWS, 60) and (whole[:, ::3].sum(axis=1) == 20).all()
    assert (whole.sum(axis=1) == 60).all() and 0.5 < whole.var() < 1.5
    draws = intervals.bootstrap(PROTOCOLS["sapl"], images)
    monkeypatch.setattr(intervals, "_CELLS", 60 * 300)
    again = intervals.bootstrap(PROTOCOLS["sapl"], images)
    assert again["i_auc"].shape == (intervals.DRAWS,)
    np.testing.assert_allclose(np.quantile(draws["p_f1"], [0.025, 0.975]),
                               np.quantile(again["p_f1"], [0.025, 0.975]), atol=0.02)  # fmt: skip


def test_intervals_are_as_wide_as_the_mean_s_standard_error_says() -> None:
    images = _images(3)
    values = [image.p_f1 for image in images.values() if image.p_f1 is not None]
    low, high = intervals.interval(intervals.bootstrap(PROTOCOLS["sapl"], images)["p_f1"])
    error = np.std(values) / np.sqrt(len(values))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < np.mean(values) < high


def test_pairs_tell_what_intervals_alone_cannot() -> None:
    first = _images(0)
    second = {
        name: ImageScores(i.label, i.score, *(v and v - 0.01 for v in (i.p_f1, 1.0, 1.0, 1.0)))
        if i.p_f1 is not None else i
        for name, i in first.items()
    }  # fmt: skip
    protocol = PROTOCOLS["sapl"]
    both = [(images, intervals.bootstrap(protocol, images)) for images in (first, second)]
    found = intervals.compare(protocol, *both)
    assert found["p_f1"]["apart"] and found["p_f1"]["ahead"] == 1.0
    assert found["p_f1"]["difference"] == pytest.approx([0.01, 0.01])
    assert not found["i_auc"]["apart"] and found["i_auc"]["ahead"] == 0.5
    back = intervals.compare(protocol, both[1], both[0])["p_f1"]
    assert back["apart"] and back["ahead"] == 0.0
    # The same pictures in another order still meet themselves.
    turned = dict(reversed(second.items()))
    found = intervals.compare(protocol, both[0], (turned, intervals.bootstrap(protocol, turned)))
    assert found["p_f1"]["difference"] == pytest.approx([0.01, 0.01])
    other = {name: ImageScores(i.label, 1 - i.score, i.p_f1) for name, i in first.items()}
    apart = intervals.compare(protocol, both[0], (other, intervals.bootstrap(protocol, other)))
    assert 0 < apart["i_auc"]["difference"][0] < apart["i_auc"]["difference"][1]
    # Fewer pictures of the one: both are drawn from those that both have.
    fewer = {name: image for name, image in second.items() if int(name) < 40}
    part = (fewer, intervals.bootstrap(protocol, fewer))
    found = intervals.compare(protocol, both[0], part)
    assert found["p_f1"]["images"] == 40
    assert found["p_f1"]["difference"] == pytest.approx([0.01, 0.01])
    assert intervals.compare(protocol, both[0], ({}, {})) == {}


def test_what_no_mask_defines_is_neither_drawn_nor_compared() -> None:
    images = {
        name: ImageScores(i.label, i.score, *([None] * 4 if i.label else [0.0] * 4))
        for name, i in _images(0).items()
    }  # as under "benco", where authentic pictures have pixel measures
    protocol = PROTOCOLS["benco"]
    both = (images, intervals.bootstrap(protocol, images))
    found = intervals.compare(protocol, both, both)
    assert list(found) == list(both[1]) == ["balanced_accuracy", "i_f1", "i_auc"]


def test_one_class_or_a_missing_score_has_pixel_measures_only() -> None:
    images = {name: image for name, image in _images(0).items() if image.label}
    assert set(intervals.bootstrap(PROTOCOLS["sapl"], images)) == set(
        ("p_f1", "p_f1_best", "p_auc", "p_iou")
    )
