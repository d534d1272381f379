"""`Localizer`: the public API of a trained model."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sapl_jax import Localizer, Result
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import Calibration
from sapl_jax.inference.opening import SHIPPED, load_model
from sapl_jax.inference.tiling import TiledDetector
from sapl_jax.models.localization import stretched


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def localizer(trained_run):
    return Localizer.load(trained_run)


def test_a_picture_gives_score_heat_map_and_mask_of_its_own_size(localizer):
    result = localizer(picture(40, 61))
    assert isinstance(result, Result)
    assert 0 < result.score < 1
    assert result.heat_map.shape == (40, 61) and result.heat_map.dtype == np.float32
    assert 0 <= result.heat_map.min() < result.heat_map.max() <= 1
    np.testing.assert_array_equal(result.mask, result.heat_map > 0.5)


def test_the_result_does_not_depend_on_the_company(localizer):
    pictures = [picture(30, 30, seed) for seed in range(3)]
    together = localizer.analyse(pictures)
    for one, alone in zip(together, map(localizer, pictures), strict=True):
        assert one.score == pytest.approx(alone.score, abs=1e-5)
        np.testing.assert_allclose(one.heat_map, alone.heat_map, atol=1e-5)


def test_larger_pictures_get_map_and_score_from_tiles_where_the_configuration_says_so(trained_run):
    trained = load_model(trained_run)
    trained.config.unlock()
    trained.config.model.heat_map.tile = 32
    image = picture(50, 70)
    whole = Localizer(*trained, tile=0)
    share = trained.config.model.pooled_share
    (expected,) = TiledDetector(whole.analyse, tile=32, share=share).analyse([image])
    found = Localizer(*trained)(image)
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert found.score != pytest.approx(whole(image).score, abs=1e-5)
    np.testing.assert_allclose(found.heat_map, expected.heat_map, atol=1e-5)
    assert np.abs(found.heat_map - whole(image).heat_map).max() > 1e-3
    other = Localizer(*trained, tile=64)(image)
    assert np.abs(found.heat_map - other.heat_map).max() > 1e-3
    found_once = Calibration("", "", 20, 20, 0.05, 0.7, 1, None, 0.01, 0.3)
    calibrated = trained._replace(
        source={**trained.source, "calibration": dataclasses.asdict(found_once)}
    )
    assert Localizer(*calibrated).calibration and Localizer(*calibrated).threshold == 0.3
    for tile in (0, 64):
        # Its scores are of another kind, and nothing promises how often they are wrong.
        assert not Localizer(*calibrated, tile=tile).calibration
        assert Localizer(*calibrated, tile=tile).threshold == 0.5
    assert not Localizer(*calibrated, overlap=0.5).calibration
    small = Localizer(*trained)(picture(20, 32))
    np.testing.assert_allclose(small.heat_map, whole(picture(20, 32)).heat_map, atol=1e-5)
    trained.config.model.heat_map.tile = 0
    assert Localizer(*calibrated, overlap=0.5).calibration  # where nothing is tiled
    asked_for = Localizer(*trained, tile=32)(image)
    assert asked_for.score == pytest.approx(whole(image).score, abs=1e-5)


def test_a_stretched_map_is_stretched_once_over_the_whole_picture(trained_run):
    image = np.random.default_rng(3).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    for tile in (0, 32):
        trained = load_model(trained_run)
        trained.config.model.heat_map.normalize = 0.0
        plain = Localizer(*trained, tile=tile)(image)
        trained.config.model.heat_map.normalize = 0.6
        found = Localizer(*trained, tile=tile)(image)
        np.testing.assert_array_equal(found.heat_map, stretched(plain.heat_map.copy(), 0.6))
        np.testing.assert_array_equal(found.mask, found.heat_map > 0.5)
        assert found.score == plain.score and found.heat_map.max() == pytest.approx(1)


def test_pictures_may_come_from_an_iterator_or_pillow(localizer):
    pictures = [picture(40, 56), picture(30, 30)]
    expected = [result.score for result in localizer.analyse(pictures)]
    assert [result.score for result in localizer.analyse(iter(pictures))] == expected
    found = localizer.analyse(map(Image.fromarray, pictures))
    assert [result.score for result in found] == expected


def test_arrays_that_are_no_rgb_pictures_are_refused(localizer):
    with pytest.raises(UserError, match="uint8"):
        localizer(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(UserError, match="RGB"):
        localizer(np.zeros((8, 8), np.uint8))
    tiled = Localizer(*load_model(None))
    for array, found in ((np.zeros((300, 481), np.uint8), r"\[300, 481\]"), ("a.png", "<U5")):
        with pytest.raises(UserError, match=found):
            tiled(array)
    with pytest.raises(UserError, match=r"\[0, 5, 3\]"):
        localizer(np.zeros((0, 5, 3), np.uint8))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        Localizer.load(tmp_path / "absent")
    with pytest.raises(UserError, match="not the work directory"):
        Localizer.load(tmp_path)


def test_a_run_without_a_field_of_the_model_is_refused(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    del config["model"]["test_views"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has no model\.test_views"):
        Localizer.load(run)


def test_importing_the_package_does_not_load_jax():
    code = "import sys, sapl_jax, sapl_jax.errors; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_which_checkpoint_of_a_run_is_told_or_follows_from_its_configuration(trained_run, tmp_path):
    with pytest.raises(UserError, match="no last checkpoint, only best"):
        Localizer.load(trained_run, which="last")
    assert Localizer.load(trained_run).source["checkpoint"] == "best/3"  # there is no other
    both = shutil.copytree(trained_run, tmp_path / "run")
    series = both / "checkpoints"
    shutil.copytree(series / "best", series / "last", dirs_exist_ok=True)
    assert Localizer.load(both, which="best").source["checkpoint"] == "best/3"
    assert Localizer.load(both).source["checkpoint"] == "last/3"  # as configs/sapl.py keeps it
    with pytest.raises(UserError, match="is an export"):
        Localizer.load(SHIPPED, which="best")
