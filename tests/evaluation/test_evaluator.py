"""Evaluating a folder: right numbers, bad files reported, bounded reading, files written whole."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.readers import parse_dataset, read_dataset
from sapl_jax.errors import UserError
from sapl_jax.evaluate import read_datasets
from sapl_jax.evaluation import evaluator, results
from sapl_jax.evaluation.evaluator import evaluate_dataset
from sapl_jax.evaluation.perturbations import SWEEPS, perturbation
from sapl_jax.evaluation.protocols import PROTOCOLS
from sapl_jax.evaluation.session import Method, Session
from sapl_jax.files import write_json
from sapl_jax.inference.calibration import Calibration
from sapl_jax.metrics import expected_calibration_error
from tests.evaluation.red_pictures import RedAnalysis, RedDetector, picture, write_grey, write_rgb

SAPL = PROTOCOLS["sapl"]


def _evaluate(detector, root: Path, **options):
    return evaluate_dataset(detector, read_dataset("folder", root), SAPL, **options)


def test_the_measures_of_a_folder_are_those_worked_out_by_hand(detector, folder) -> None:
    summary = _evaluate(detector, folder).summary
    assert summary["p_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["i_auc"] == 1.0
    counts = {key: summary[key] for key in ("images", "authentic", "tampered", "masks", "skipped")}
    assert counts == {"images": 5, "authentic": 2, "tampered": 3, "masks": 2, "skipped": 0}


def test_every_picture_is_seen_once_whatever_the_batch_size(detector, folder) -> None:
    whole = _evaluate(detector, folder, batch_size=8)
    ones = RedDetector()
    single = _evaluate(ones, folder, batch_size=1)
    assert ones.batches == [1] * 5 and detector.batches == [5]
    assert whole.summary == single.summary and whole.digest == single.digest


def test_large_pictures_get_batches_of_their_own(detector, folder, monkeypatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_PIXELS", 20 * 40 * 2)
    _evaluate(detector, folder, batch_size=8)
    assert detector.batches == [2, 2, 1]


class _CountingDetector(RedDetector):
    """Counts the heat maps that are still alive when the next batch comes."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[weakref.ref] = []
        self.most_alive = 0

    def analyse(self, images):
        gc.collect()
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self._given))
        found = super().analyse(images)
        self._given += [weakref.ref(analysis.heat_map) for analysis in found]
        return found


def test_heat_maps_do_not_pile_up(folder) -> None:
    detector = _CountingDetector()
    _evaluate(detector, folder, batch_size=1)
    assert detector.most_alive <= 2


def test_bad_files_are_named_and_counted_and_the_run_goes_on(detector, folder) -> None:
    whole = (folder / "Au" / "x.png").read_bytes()
    (folder / "Au" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "Au" / "text.jpg").write_text("not a picture")
    (folder / "Au" / "notes.txt").write_text("not a picture either")
    write_rgb(folder / "Tp" / "d.png", picture(10))
    write_grey(folder / "Gt" / "d_gt.png", np.zeros((77, 40), np.uint8))
    write_rgb(folder / "Tp" / "e.png", picture(10))
    write_grey(folder / "Gt" / "e_gt.png", np.zeros((20, 40), np.uint8))
    write_rgb(folder / "Tp" / "f.png", picture(10))
    write_rgb(folder / "Tp" / "g.png", picture(10))
    write_grey(folder / "Gt" / "g_gt.png", np.full((20, 40), 3, np.uint8))
    result = _evaluate(detector, folder)
    reasons = {path.name: reason for path, reason in result.skipped}
    assert set(reasons) == {"cut.png", "text.jpg", "notes.txt"}
    assert "truncated" in reasons["cut.png"]
    notes = {path.name: note for path, note in result.notes}
    assert "mask is 40x77 but its picture is 40x20" in notes["d.png"]
    assert "no tampered pixel" in notes["e.png"] and "none above 127" in notes["g.png"]
    assert "has no mask" in notes["f.png"]
    assert (result.summary["images"], result.summary["masks"]) == (9, 2)
    assert result.summary["p_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert result.summary["skipped"] == 3
    write_grey(folder / "Gt" / "e_gt.png", np.full((20, 40), 255, np.uint8))
    notes = {path.name: note for path, note in _evaluate(detector, folder).notes}
    assert "marks over 90 %: inverted" in notes["e.png"]


def test_a_picture_that_jpeg_cannot_hold_is_left_out_of_that_sweep(detector, folder) -> None:
    write_rgb(folder / "Au" / "wide.png", np.zeros((2, 70_000, 3), np.uint8))
    assert _evaluate(detector, folder).skipped == []
    saved = perturbation(SWEEPS["jpeg"], 90, 0)
    ((path, reason),) = _evaluate(detector, folder, perturbation=saved).skipped
    assert path.name == "wide.png" and "no JPEG" in reason


def test_unusual_pictures_are_evaluated_and_noted(detector, folder) -> None:
    rgb = Image.fromarray(picture(0))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.full((20, 40), 40_000, np.uint16)
    Image.fromarray(deep).save(folder / "Au/deep.png")
    rgb.convert("L").save(folder / "Au/grey.jpg")
    rgb.quantize(8).save(folder / "Au/palette.png")
    rgb.convert("CMYK").save(folder / "Au/cmyk.jpg")
    rgb.convert("RGBA").save(folder / "Au/alpha.tif")
    rgb.save(folder / "Au/turned.jpg", exif=exif)
    result = _evaluate(detector, folder)
    notes = {path.name: note for path, note in result.notes}
    for name, word in {
        "deep.png": "16-bit",
        "grey.jpg": "grey",
        "palette.png": "palette",
        "cmyk.jpg": "CMYK",
        "alpha.tif": "alpha",
        "turned.jpg": "orientation 6",
    }.items():
        assert word in notes[name]
    counts = [result.summary[key] for key in ("images", "noted", "skipped")]
    assert counts == [11, 7, 0]  # The fixture's c.png has no mask, which is noted too.
    assert {record.size for record in result.records} == {(20, 40)}


def test_a_set_without_a_usable_picture_is_an_error(detector, tmp_path) -> None:
    (tmp_path / "Tp").mkdir()
    (tmp_path / "Tp" / "a.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="none of"):
        _evaluate(detector, tmp_path)


class _BrokenDetector(RedDetector):
    def analyse(self, images):
        found = super().analyse(images)
        return [RedAnalysis(float("nan"), found[0].heat_map), *found[1:]]


def test_inverted_masks_are_noted(detector, tmp_path) -> None:
    for number in range(5):
        write_rgb(tmp_path / f"Tp/t{number}.png", picture(4 + number))
        write_grey(tmp_path / f"Gt/t{number}_gt.png", 255 - 255 * (picture(8)[..., 0] > 0))
    result = _evaluate(detector, tmp_path)
    assert (tmp_path, "masks look inverted: half of them mark over 80% as tampered") in result.notes


def test_a_set_without_any_mask_is_noted(detector, folder) -> None:
    for mask in (folder / "Gt").iterdir():
        mask.unlink()
    result = _evaluate(detector, folder)
    assert (folder, "no tampered picture has a mask: no pixel measures") in result.notes


def test_a_score_that_is_not_finite_is_skipped_with_its_reason(folder) -> None:
    result = _evaluate(_BrokenDetector(), folder, batch_size=5)
    assert result.summary["images"] == 4
    assert "not finite" in result.skipped[0][1]


def test_the_digest_tells_when_a_file_changed(detector, folder) -> None:
    before = _evaluate(detector, folder).digest
    write_grey(folder / "Gt" / "a_gt.png", np.full((20, 40), 255, np.uint8))
    assert _evaluate(detector, folder).digest != before


def _session(detector, found) -> Session:
    session = Session(SAPL, [Method("red", detector, {"weights": "none"})], seed=0)
    session.results["red"] = {result.name: result for result in found}
    return session


def test_one_class_writes_null_and_the_table_shows_a_dash(detector, folder, tmp_path) -> None:
    for path in (folder / "Au").iterdir():
        path.unlink()
    result = _evaluate(detector, folder)
    path = tmp_path / "out" / "results.json"
    session = _session(detector, [result])
    write_json(path, results.build(session))
    written = json.loads(path.read_text())
    entry = written["datasets"]["folder"]
    assert entry["i_auc"] is None and entry["p_f1"] == pytest.approx(5 / 6)
    assert entry["images"] == 3 and written["protocol"] == "sapl" and written["versions"]["jax"]
    assert " - " in results.table(session).splitlines()[2]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_errors_of_calibration_are_of_scores_and_of_calibrated_ones(folder) -> None:
    class Wrong(RedDetector):
        calibration = Calibration(
            "", "", 20, 20, 0.05, 0.7, 1, None, 0.01, 0.3, temperature=2.0, bias=1.0
        )

        def analyse(self, images):
            return [found._replace(score=1 - found.score) for found in super().analyse(images)]

    result = _evaluate(Wrong(), folder)
    session = _session(Wrong(), [result])
    labels, scores = result.labels_and_scores
    shown = {"score": scores, "calibrated": Wrong.calibration.probability(scores)}
    wanted = {name: expected_calibration_error(labels, values) for name, values in shown.items()}
    entry = results.build(session)["datasets"]["folder"]
    assert entry["calibration_error"] == pytest.approx(wanted)
    session.protocol = PROTOCOLS["mvss"]  # Its scores are not the model's.
    assert set(results.probabilities(session, session.methods[0], result)) == {"score"}


def test_the_mean_row_takes_the_data_sets_that_have_the_measure(detector, folder) -> None:
    both = _evaluate(detector, folder, label="both")
    for path in (folder / "Au").iterdir():
        path.unlink()
    one = _evaluate(detector, folder, label="one")
    mean = results.mean_of([both, one])
    assert mean["i_auc"] == both.summary["i_auc"]
    assert mean["p_f1"] == pytest.approx((both.summary["p_f1"] + one.summary["p_f1"]) / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("casia_v2=/d", ("casia_v2", "casia_v2", Path("/d"))),
        ("CASIAv2=/d=x", ("CASIAv2", "casia_v2", Path("/d=x"))),
        ("mine=/d", ("mine", "folder", Path("/d"))),
        ("CASIA2=/d", ("CASIA2", "casia_v2", Path("/d"))),  # as mirrors name them
        ("CASIA1.0=/d", ("CASIA1.0", "casia_v1", Path("/d"))),
        ("CASIA_v2.0=/d", ("CASIA_v2.0", "casia_v2", Path("/d"))),
        ("casia1plus=/d", ("casia1plus", "folder", Path("/d"))),
        ("CASIA2:folder=/d", ("CASIA2", "folder", Path("/d"))),
        ("old:casia-v2=/d", ("old", "casia_v2", Path("/d"))),
    ],
)
def test_dataset_flag_gives_name_layout_and_path(text, expected) -> None:
    assert parse_dataset(text) == expected


@pytest.mark.parametrize("text", ["casia_v2", "=x", "a=", "a:=x", "a:nonsense=x", "a/b=x", ".a=x"])
def test_a_malformed_dataset_flag_is_a_clear_error(text) -> None:
    with pytest.raises(UserError, match="--dataset"):
        parse_dataset(text)


def test_two_data_sets_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        read_datasets(["a=/x", "a=/y"], [])
