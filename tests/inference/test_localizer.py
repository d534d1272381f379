"""`Localizer`: the public API of a trained model."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from data_pipelines.preprocess import preprocess
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax import Localizer, Result
from sapl_jax.clip.blocks import l2_normalize
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import Calibration
from sapl_jax.inference.opening import SHIPPED, load_model
from sapl_jax.inference.tiling import TiledDetector
from sapl_jax.models.hecl import select_patches
from sapl_jax.models.localization import heat_map_of_picture, stretched
from sapl_jax.models.sapl import SAPL, score_and_patch_map
from tests.tiny import TINY_CLIP


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


def test_a_map_is_smoothed_once(trained_run):
    trained, image = load_model(trained_run), picture(28, 28)
    heat_map = trained.config.model.heat_map
    for colours, sigma in ((0.2, 0.0), (0.0, heat_map.sigma)):  # Along colours the model smooths.
        heat_map.colours = colours
        localizer = Localizer(*trained)
        inputs = preprocess(image, localizer.geometry, localizer.edge_options)
        batch = (part[None] for part in inputs[:3])
        _, (patches,) = nnx.jit(score_and_patch_map)(trained.model, *batch)
        sizes = {"canvas": 28, "resized": (28, 28), "original": (28, 28)}
        wanted = heat_map_of_picture(np.asarray(patches), inputs.valid, **sizes, sigma=sigma)
        np.testing.assert_allclose(localizer(image).heat_map, wanted, atol=1e-5)


def test_edges_and_threshold_are_those_of_the_configuration(trained_run):
    trained = load_model(trained_run)
    trained.config.unlock()
    trained.config.image.canny_low, trained.config.model.heat_map.threshold = 50.0, 0.25
    found = Localizer(*trained)
    assert found.edge_options == EdgeOptions(canny_low=50.0)
    result = found(picture(40, 61))
    np.testing.assert_array_equal(result.mask, result.heat_map > 0.25)


def test_edge_features_are_of_the_patches_that_hecl_takes_for_the_own_class(localizer, trained_run):
    model, config, _ = load_model(trained_run)
    labels = np.arange(localizer.batch_size + 4) % 2  # More than one batch.
    labels[-4:] = 1
    images = [picture(28, 28 - 7 * (n % 3), n) for n in range(len(labels))]
    images[0][:] = 90  # no edge
    features, usable = localizer.edge_features(images, labels)
    inputs = [preprocess(image, localizer.geometry, localizer.edge_options)[:3] for image in images]
    image, edge_map, valid = map(np.stack, zip(*inputs, strict=True))
    found = jax.device_get(nnx.jit(SAPL.__call__)(model, image, edge_map, valid))
    given = found.similarity, model.scale, found.edge_map, valid.reshape(len(labels), -1), labels
    chosen, expected = select_patches(*given, config.model.hecl)
    np.testing.assert_array_equal(usable, expected)
    own = np.asarray(chosen)[:, np.arange(len(labels)), labels]
    of_own = l2_normalize(np.take_along_axis(found.embeddings, own[..., None], axis=2))
    np.testing.assert_allclose(features, np.swapaxes(of_own, 0, 1), atol=1e-4)


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


def test_a_run_that_was_trained_on_other_clip_weights_is_refused(trained_run, tmp_path):
    run, clip = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "clip"
    shutil.copytree(TINY_CLIP, clip)
    (clip / "flax_model.msgpack").unlink()  # Another file is read.
    config = json.loads((run / "config.json").read_text())
    config["clip"]["pretrained"] = str(clip)
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trained on other CLIP weights"):
        Localizer.load(run)


def test_a_run_whose_clip_folder_has_moved_says_where_to_write_the_new_one(trained_run, tmp_path):
    run, clip = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "clip"
    shutil.copytree(TINY_CLIP, clip)
    config = json.loads((run / "config.json").read_text())
    for place in (tmp_path / "before", clip):
        config["clip"]["pretrained"] = str(place)
        (run / "config.json").write_text(json.dumps(config))
        if place != clip:
            with pytest.raises(UserError, match=r"before: .*run/config.json \(clip.pretrained\)"):
                Localizer.load(run)
    assert Localizer.load(run).source["clip"]["name"] != str(clip)  # As it was in training.


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
    config = json.loads((both / "config.json").read_text())
    del config["train"]["keep"]  # as in runs of before that field
    (both / "config.json").write_text(json.dumps(config))
    assert Localizer.load(both).source["checkpoint"] == "last/3"
    with pytest.raises(UserError, match="is an export"):
        Localizer.load(SHIPPED, which="best")
