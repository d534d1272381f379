"""Calibration recovers what was put in, keeps the rate it states, and travels with the weights."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta

from data_pipelines.listing import AUTHENTIC, Sample
from data_pipelines.prepared import fingerprint
from data_pipelines.readers import read_dataset
from data_pipelines.splits import split_samples
from sapl_jax import calibrate as command
from sapl_jax.errors import UserError
from sapl_jax.evaluation import calibrating, evaluator
from sapl_jax.evaluation.calibrating import choose_pictures, measure
from sapl_jax.exporting.writing import export
from sapl_jax.inference import calibration
from sapl_jax.inference.detector import result_of
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import load_model
from sapl_jax.workdir import remember_data
from tests.inference.hostile import picture, write

UNIFORM = np.ones(calibration.BINS) / calibration.BINS


def _calibrate(labels, scores, **options):
    options = {"false_alarms": 0.05, "marked": 0.01, "map_counts": UNIFORM} | options
    return calibration.calibrate(
        np.asarray(labels), np.asarray(scores), model="m", pictures="these", **options
    )


def _drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true probability is sigmoid(logit(score) / 2 - 0.7)."""
    rng = np.random.default_rng(seed)
    scores = expit(rng.normal(0.5, 3, count))
    return (rng.random(count) < expit(logit(scores) / 2 - 0.7)).astype(int), scores


def test_temperature_and_bias_are_those_the_labels_were_drawn_with() -> None:
    temperature, bias = calibration.fit_temperature(*_drawn(20_000))
    assert temperature == pytest.approx(2, rel=0.07) and bias == pytest.approx(-0.7, abs=0.07)
    found = _calibrate(*_drawn(20_000))
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


def _run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["calibrate", *map(str, arguments)])
    command.main()


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for number in range(12):
        write(tmp_path / "own" / f"{number}.png", picture(seed=number))
    (tmp_path / "own" / "copy.png").write_bytes((tmp_path / "own" / "0.png").read_bytes())
    (tmp_path / "own" / "text.png").write_text("no picture")
    # A name that is not UTF-8 is a name like others.
    (tmp_path / "own" / "11.png").rename(tmp_path / "own" / os.fsdecode(b"f\xfcr.png"))
    return tmp_path / "own"


def test_own_pictures_calibrate_a_run_and_what_they_say_is_taken_up(
    monkeypatch, capsys, caplog, own, run
) -> None:
    flags = ("--checkpoint", run, "--authentic", own)
    with monkeypatch.context() as before, pytest.raises(UserError, match="13 authentic pictures"):
        before.setattr(calibrating, "measure", lambda *_: pytest.fail("analysed too few pictures"))
        _run(before, *flags)
    with pytest.raises(UserError, match="12 authentic pictures cannot promise"):  # One is damaged.
        _run(monkeypatch, *flags, "--false-alarms", ".075")
    assert not (run / calibration.FILE).exists()
    _run(monkeypatch, *flags, "--false-alarms", ".2", "--marked", ".3")
    assert "1 of 12 authentic" in capsys.readouterr().out
    assert "1 copies of others" in caplog.text and "text.png" in caplog.text
    localizer = Localizer.load(run)
    found = localizer.calibration
    assert (found.authentic, found.false_alarms, found.alarms) == (12, 0.2, 1)
    results = localizer.analyse([picture(seed=number) for number in range(12)])
    assert sum(localizer.verdict(r.score) == "tampered" for r in results) == 1
    assert np.mean([r.mask.mean() for r in results]) <= 0.3
    assert localizer.threshold == found.map_threshold
    other = Localizer.load(run, tile=32)
    assert other.threshold == 0.5  # Maps in other tiles are of another kind.
    assert other.calibration == found  # The score is that of the whole picture.


def test_the_validation_split_gives_the_probability_and_own_pictures_keep_it(
    monkeypatch, own, run
) -> None:
    with pytest.raises(UserError, match="training data are not here"):
        _run(monkeypatch, "--checkpoint", run)
    split = [Sample("a.png", own / "a.png", AUTHENTIC)] * 500
    monkeypatch.setattr(calibrating, "choose_pictures", lambda *_: (split, "split"))
    monkeypatch.setattr(calibrating, "measure", lambda *_: (*_drawn(500), UNIFORM))
    _run(monkeypatch, "--checkpoint", run, "--marked", ".3")
    first = Localizer.load(run).calibration
    assert first.temperature == pytest.approx(2, rel=0.5) and first.authentic_to is not None
    monkeypatch.undo()
    _run(monkeypatch, "--checkpoint", run, "--authentic", own, "--false-alarms", ".1")
    second = Localizer.load(run).calibration
    assert (second.temperature, second.fitted_on) == (first.temperature, first.fitted_on)
    assert second.authentic == 12 and second.authentic_to <= second.tampered_above
    assert second.marked == first.marked
    # What was promised of tampered pictures stays that of the split, whatever rates come after it.
    _run(monkeypatch, "--checkpoint", run, "--authentic", own, "--false-alarms", ".2")
    _run(monkeypatch, "--checkpoint", run, "--authentic", own, "--false-alarms", ".1")
    third = Localizer.load(run).calibration
    assert (third.missed, third.authentic_to) == (first.false_alarms, second.authentic_to)
    assert "at most 5.0% of" in third.rule and "(stated: 10.0%;" in third.rule


def test_either_checkpoint_of_a_run_is_calibrated(monkeypatch, caplog, own, run) -> None:
    (best,) = (run / "checkpoints" / "best").glob("[0-9]*")
    shutil.copytree(best, run / "checkpoints" / "last" / best.name, dirs_exist_ok=True)
    flags = ("--checkpoint", run, "--authentic", own, "--false-alarms", ".2")
    _run(monkeypatch, *flags, "--which", "best")
    assert Localizer.load(run, which="best").calibration is not None
    shutil.rmtree(run / "checkpoints" / "best")
    with pytest.raises(UserError, match="no best checkpoint"):
        _run(monkeypatch, *flags, "--which", "best")


def test_pictures_that_cannot_be_measured_are_left_out_by_harmless_names(caplog, tmp_path) -> None:
    class Broken:
        def analyse(self, images):
            return [result_of(score, np.zeros((8, 8), np.float32)) for score in (np.nan, 0.5)]

    (tmp_path / "bad\x1b[2J.png").write_text("no picture")
    paths = [write(tmp_path / f"{number}\x1b[2J.png", picture()) for number in range(2)]
    samples = [Sample(str(p), p, AUTHENTIC) for p in [*paths, tmp_path / "bad\x1b[2J.png"]]
    labels, scores, counts = measure(Broken(), samples)
    assert (labels.tolist(), scores.tolist(), counts.sum()) == ([AUTHENTIC], [0.5], 1)
    assert caplog.text.count("skipped") == 2 and "\x1b" not in caplog.text


def test_a_calibration_of_other_weights_or_another_format_is_not_taken(
    monkeypatch, caplog, own, run
) -> None:
    _run(monkeypatch, "--checkpoint", run, "--authentic", own, "--false-alarms", ".2")
    stored = json.loads((run / calibration.FILE).read_text())
    (run / calibration.FILE).write_text(json.dumps({**stored, "model": "other"}))
    assert Localizer.load(run).calibration is None and "of other weights" in caplog.text
    (run / calibration.FILE).write_text(json.dumps({**stored, "format": 2}))
    with pytest.raises(UserError, match="not a calibration"):
        Localizer.load(run)


def test_exports_carry_it(monkeypatch, own, run, tmp_path) -> None:
    _run(monkeypatch, "--checkpoint", run, "--authentic", own, "--false-alarms", ".2")
    export(load_model(run), "orbax", tmp_path / "export", [own / "0.png"])
    exported, localizer = Localizer.load(tmp_path / "export"), Localizer.load(run)
    assert exported.calibration is not None and exported.calibration == localizer.calibration
    # Its LoRA is merged; that a calibration is of its weights is told by the run's fingerprint.
    assert exported.source["fingerprint"] == localizer.source["fingerprint"]


def test_training_data_that_changed_are_said_to_have_changed(caplog, own, run, tmp_path) -> None:
    for number in range(6):
        write(tmp_path / "data" / "Au" / f"a{number}.png", picture(seed=number))
        write(tmp_path / "data" / "Tp" / f"t{number}.png", picture(seed=number))
    localizer = Localizer.load(run)
    config = localizer.config.copy_and_resolve_references().unlock()
    config.data.dataset, config.data.val_fraction = "folder", 0.5
    listing = read_dataset("folder", tmp_path / "data")
    options = (localizer.geometry, localizer.edge_options, 0.5, config.seed)
    remember_data(run, tmp_path, fingerprint(listing, *options))
    named = SimpleNamespace(
        config=config, geometry=localizer.geometry, edge_options=localizer.edge_options
    )
    kept, _ = choose_pictures(named, run, None, listing.root)
    assert kept == split_samples(listing.samples, 0.5, config.seed).validation
    assert "may not be" not in caplog.text
    (tmp_path / "data" / "Tp" / "t0.png").unlink()
    choose_pictures(named, run, None, listing.root)
    assert "may not be what it was trained on" in caplog.text


def test_pictures_of_the_training_data_are_left_out(caplog, own, trained_run, tmp_path) -> None:
    write(tmp_path / "data" / "Au" / "same.png", picture(seed=3))
    (tmp_path / "data" / "Au" / "same.png").write_bytes((own / "3.png").read_bytes())
    write(tmp_path / "data" / "Tp" / "t.png", picture(seed=99))
    config = Localizer.load(trained_run).config.copy_and_resolve_references()
    config.unlock()
    config.data.dataset = "folder"
    named = SimpleNamespace(config=config)
    kept, _ = choose_pictures(named, Path("x"), own, tmp_path / "data")
    assert "1 pictures of the training data" in caplog.text
    assert len(kept) == 12 and not any(sample.image.name == "3.png" for sample in kept)


def test_maps_of_authentic_pictures_are_measured_in_equal_shares_and_no_mask_is_opened(
    monkeypatch, tmp_path
) -> None:
    class Grey:
        def analyse(self, images):
            maps = [np.full(i.shape[:2], 0.25 if i.shape[0] < 40 else 0.75) for i in images]
            return [result_of(0.5, heat_map) for heat_map in maps]

    monkeypatch.setattr(evaluator, "load_mask", lambda *_: pytest.fail("opened a mask"))
    shapes = {"a": (20, 30), "b": (36, 99), "t": (40, 40)}
    paths = {name: write(tmp_path / f"{name}.png", picture(*shapes[name])) for name in shapes}
    samples = [Sample(n, p, int(n == "t"), p if n == "t" else None) for n, p in paths.items()]
    labels, _, counts = measure(Grey(), samples)
    assert labels.tolist() == [0, 0, 1] and len(counts) == calibration.BINS
    assert counts[calibration.BINS // 4] == 2 == counts.sum()
