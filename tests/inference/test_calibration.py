"""Calibration recovers what was put in and keeps the rate it states."""

import numpy as np
import pytest
from flax import nnx
from scipy.special import expit
from scipy.stats import beta

from sapl_jax.clip.blocks import Trainable
from sapl_jax.errors import UserError
from sapl_jax.inference import calibration
from sapl_jax.inference.opening import load_model
from tests.drawn_scores import UNIFORM, drawn


def _calibrate(labels, scores, **options):
    options = {"false_alarms": 0.05, "marked": 0.01, "map_counts": UNIFORM} | options
    return calibration.calibrate(
        np.asarray(labels), np.asarray(scores), model="m", pictures="these", **options
    )


def test_temperature_and_bias_are_those_the_labels_were_drawn_with() -> None:
    temperature, bias = calibration.fit_temperature(*drawn(20_000))
    assert temperature == pytest.approx(2, rel=0.07) and bias == pytest.approx(-0.7, abs=0.07)
    found = _calibrate(*drawn(20_000))
    assert found.probability(0.5) == pytest.approx(expit(-0.7), abs=0.02)
    assert np.all(np.isfinite(found.probability(np.array([0.0, 1.0]))))


def test_perfectly_parted_classes_stay_finite_and_reversed_ones_are_refused() -> None:
    labels, scores = np.repeat([0, 1], 30), np.repeat([0.2, 0.8], 30)
    found = _calibrate(labels, scores)
    assert 0.9 < found.probability(0.8) < 1 and 0 < found.probability(0.2) < 0.1
    with pytest.raises(UserError, match="do not have higher scores"):
        _calibrate(1 - labels, scores)


def test_the_fit_is_to_platts_soft_targets() -> None:
    # One score per class: the fit meets both targets, (n + 1) / (n + 2) and 1 / (n + 2).
    found = _calibrate(np.repeat([0, 1], [30, 20]), np.repeat([0.2, 0.8], [30, 20]))
    probabilities = found.probability(np.array([0.2, 0.8]))
    assert probabilities == pytest.approx([1 / 32, 21 / 22], abs=1e-3)


def test_the_stated_rate_of_false_alarms_holds_on_new_pictures() -> None:
    rng, rates = np.random.default_rng(0), []
    for _ in range(400):
        found = _calibrate(np.zeros(59, int), rng.random(59))
        rates.append(1 - found.tampered_above)  # of new scores, which are uniform too
    # k = 3 of 60: Beta(3, 57), whose mean is the stated 0.05.
    assert np.mean(rates) == pytest.approx(0.05, abs=0.004)
    assert np.quantile(rates, 0.9) == pytest.approx(beta.ppf(0.9, 3, 57), rel=0.1)


@pytest.mark.parametrize(("count", "rank"), [(18, 0), (19, 1), (38, 1), (39, 2), (59, 3)])
def test_authentic_ends_at_the_score_of_the_stated_rank(count, rank) -> None:
    # Below the k-th lowest of n, k = floor(rate (n + 1)), lies a new one with k / (n + 1) at most.
    tampered = np.random.default_rng(0).permutation(np.linspace(0.2, 0.95, count))
    scores = np.r_[np.linspace(0.1, 0.6, 40), tampered]
    found = _calibrate(np.repeat([0, 1], [40, count]), scores)
    assert found.authentic_to == (np.sort(tampered)[rank - 1] if rank else None)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (2, 40), (5, 5)])
def test_clopper_pearson_is_the_exact_interval(hits, count) -> None:
    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1
    assert calibration.clopper_pearson(hits, count) == pytest.approx((low, high))


def test_verdicts_follow_the_rule() -> None:
    scores = np.r_[np.linspace(0, 0.6, 40), np.linspace(0.4, 1, 40)]
    found = _calibrate(np.repeat([0, 1], 40), scores)
    assert found.alarms == 1 and found.authentic_to < found.tampered_above
    below, between = found.authentic_to - 1e-6, (found.authentic_to + found.tampered_above) / 2
    assert [found.verdict(s) for s in (below, between, found.tampered_above, 0.99)] == [
        *("authentic", "inconclusive", "inconclusive", "tampered")
    ]
    low, high = calibration.clopper_pearson(1, 40)
    assert f"{low:.1%} to {high:.1%}" in found.rule and "1 of 40" in found.rule
    one_class = _calibrate(np.zeros(40, int), scores[:40])
    assert one_class.verdict(0) == "inconclusive" and one_class.probability(0.5) is None


def test_where_classes_are_parted_tampered_begins_where_authentic_ends() -> None:
    scores = np.r_[np.linspace(0, 0.3, 40), np.linspace(0.7, 1, 40)]
    found = _calibrate(np.repeat([0, 1], 40), scores)
    assert found.tampered_above == scores[38] == found.authentic_to
    verdicts = [found.verdict(score) for score in (0.29, found.tampered_above, 0.5)]
    assert verdicts == ["authentic", "inconclusive", "tampered"]
    # Nor do they cross where other authentic pictures lower the one end.
    lower = _calibrate(np.zeros(40, int), scores[:40] / 2)
    merged = calibration.with_tampered_side_of(found, lower)
    assert merged.tampered_above == lower.tampered_above == merged.authentic_to


def test_without_a_calibration_a_half_is_authentic() -> None:
    words = [calibration.verdict(score) for score in (0.5, np.nextafter(0.5, 1))]
    assert words == ["authentic", "tampered"]


def test_too_few_pictures_are_refused_with_what_they_can_promise() -> None:
    with pytest.raises(
        UserError, match="5 authentic pictures cannot promise.*takes 19.*0.167 or higher"
    ):
        _calibrate(np.zeros(5, int), np.linspace(0, 1, 5))
    assert _calibrate(np.zeros(5, int), np.linspace(0, 1, 5), false_alarms=0.17).alarms == 0
    with pytest.raises(UserError, match="0 authentic pictures cannot .* Give more pictures\\.$"):
        _calibrate(np.ones(5, int), np.linspace(0, 1, 5))


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8, 13, 27, 999, 1400])
def test_the_rate_that_a_refusal_suggests_is_accepted(count) -> None:
    labels, scores = np.zeros(count, int), np.linspace(0, 1, count)
    with pytest.raises(UserError) as refused:
        _calibrate(labels, scores, false_alarms=1e-5)
    assert str(refused.value).startswith(f"{count} authentic picture{'s' * (count > 1)} cannot")
    suggested = float(str(refused.value).split("--false-alarms ")[1].split()[0])
    assert _calibrate(labels, scores, false_alarms=suggested).alarms == 0


def test_tied_tampered_scores_keep_the_stated_rate() -> None:
    tampered = np.r_[np.full(20, 0.3), np.linspace(0.5, 1, 20)]
    found = _calibrate(np.repeat([0, 1], 40), np.r_[np.linspace(0, 0.6, 40), tampered])
    assert sum(found.verdict(score) == "authentic" for score in tampered) <= 0.05 * 40
    assert found.verdict(0.29) == "authentic" and "authentic below 0.3, where at most" in found.rule


def test_the_low_end_of_a_higher_rate_is_left_out(caplog) -> None:
    labels, scores = (
        np.repeat([0, 1], 100),
        np.r_[np.linspace(0, 0.6, 100), np.linspace(0.1, 1, 100)],
    )
    before = _calibrate(labels, scores, false_alarms=0.1)
    same, lower = (
        calibration.with_tampered_side_of(
            before, _calibrate(np.zeros(100, int), scores[:100], false_alarms=rate)
        )
        for rate in (0.1, 0.01)
    )
    assert same.authentic_to == before.authentic_to and "at most 10.0% of 100" in same.rule
    assert lower.verdict(0) == "inconclusive" and "none is called authentic" in lower.rule
    assert (lower.temperature, lower.tampered) == (before.temperature, 100)
    assert "--false-alarms 0.01" in caplog.text


def test_the_map_threshold_marks_no_more_than_asked() -> None:
    found = _calibrate(np.zeros(40, int), np.linspace(0, 1, 40), marked=0.02)
    assert found.map_threshold == pytest.approx(0.98, abs=1 / calibration.BINS)
    # A quarter lies in the upper of two steps: to mark no more, all of the lower one is left out.
    counts = np.zeros(calibration.BINS)
    counts[[100, 3000]] = 3, 1
    labels, scores = np.zeros(40, int), np.linspace(0, 1, 40)
    ends = [
        _calibrate(labels, scores, map_counts=counts, marked=marked).map_threshold
        for marked in (0.25, 0.24)
    ]
    assert ends == [101 / calibration.BINS, 3001 / calibration.BINS]


def test_the_fingerprint_changes_with_every_trained_weight(trained_run) -> None:
    model, again = (load_model(trained_run).model for _ in range(2))
    found = [calibration.fingerprint(model)]
    assert found == [calibration.fingerprint(again)]
    for _, weight in nnx.iter_graph(model):
        if isinstance(weight, Trainable):
            weight[...] += 1e-3
            found.append(calibration.fingerprint(model))
    assert len(set(found)) == len(found) > 5
