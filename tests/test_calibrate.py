"""The command calibrates runs on their validation split and on own pictures; the result travels."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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
from tests.drawn_scores import UNIFORM, drawn
from tests.inference.hostile import picture, write


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
    monkeypatch.setattr(calibrating, "measure", lambda *_: (*drawn(500), UNIFORM))
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
