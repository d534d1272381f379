"""Exports give the checkpoint's heat maps, stand alone, and overwrite nothing of others."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import cv2
import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from data_pipelines.generator.photographs import installed_photographs
from data_pipelines.images import read_image
from sapl_jax import Localizer
from sapl_jax import export as export_command
from sapl_jax.clip.loading import load_clip
from sapl_jax.errors import UserError
from sapl_jax.exporting import writing
from sapl_jax.exporting.writing import describe
from sapl_jax.inference.calibration import Calibration, verdict
from sapl_jax.inference.opening import load_model
from sapl_jax.models.sapl import with_parts
from tests.small_files import largest_file
from tests.tiny import TINY_CLIP

KINDS = ["orbax", "stablehlo", "huggingface"]


@pytest.fixture(scope="module")
def trained(trained_run):
    return load_model(trained_run, "float32")


@pytest.fixture(scope="module")
def exports(trained, tmp_path_factory):
    """Each kind's folder and comparisons, made once."""
    root = tmp_path_factory.mktemp("exports")
    return {
        kind: (root / kind, writing.export(trained, kind, root / kind, installed_photographs()[:1]))
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_heat_maps_are_the_checkpoints(exports, kind):
    _, found = exports[kind]
    assert [c.name for c in found] == ["china.jpg"]
    assert max(found[0].heat_map, found[0].score) < 1e-4


def test_the_check_sees_a_wrong_weight(trained, exports, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exports["stablehlo"][0], folder)
    with np.load(folder / "weights.npz") as stored:
        weights = dict(stored)
    weights["trained/prompts/context"] = weights["trained/prompts/context"] * 1.1
    np.savez(folder / "weights.npz", **weights)
    damaged = writing.detector_of_export(folder, "stablehlo", trained)
    with pytest.raises(UserError, match="differs from the checkpoint"):
        writing.compare(Localizer(*trained), damaged, installed_photographs()[:1])


def test_orbax_opens_without_the_clip_files_on_another_device_count(exports, trained_run, tmp_path):
    folder = tmp_path / "alone"
    shutil.copytree(exports["orbax"][0], folder)
    described = json.loads((folder / "export.json").read_text())
    assert described["config"]["data"]["root"] == ""
    assert described["source"]["clip"]["name"] == "hf_clip_tiny"  # no path of this machine
    assert str(TINY_CLIP) not in (folder / "export.json").read_text()
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    # This process has two devices, the other one.
    code = (
        "import jax, numpy, sys; from sapl_jax import Localizer; assert jax.device_count() == 1; "
        f"image = numpy.load({str(tmp_path / 'image.npy')!r}); "
        f"result = Localizer.load({str(folder)!r})(image); "
        f"numpy.save({str(tmp_path / 'map.npy')!r}, result.heat_map)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    expected = Localizer.load(trained_run)(image).heat_map
    np.testing.assert_allclose(np.load(tmp_path / "map.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("ends", [None, (1.0, None), (1.0, 1.0), (1.0, 0.0), (0.0, None)])
def test_stablehlo_runs_without_this_package(exports, trained, trained_run, tmp_path, ends):
    folder = tmp_path / "alone"
    shutil.copytree(exports["stablehlo"][0], folder)
    if ends is not None:
        found = Calibration("", "", 20, 20, 0.05, ends[0], 1, ends[1], 0.01, 0.5)
        carried = {**trained.source, "calibration": dataclasses.asdict(found)}
        content = describe(trained._replace(source=carried), "stablehlo")
        (folder / "export.json").write_text(json.dumps(content))
    source = installed_photographs()[0]
    # -I: neither the working directory nor the environment leads to the package.
    block = "import sys; sys.modules['sapl_jax'] = sys.modules['data_pipelines'] = None; "
    run = f"import runpy; sys.argv = ['run.py', {str(source)!r}]; runpy.run_path("
    code = f"{block}{run}{str(folder / 'run.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    written = cv2.imread(str(tmp_path / "china_heatmap.png"), cv2.IMREAD_GRAYSCALE)
    expected = Localizer.load(trained_run)(read_image(source))
    said = verdict(expected.score, found if ends else None)
    assert f"{said}, score {expected.score:.3f}" in done.stdout.decode()
    assert np.abs(written / 255 - expected.heat_map).max() < 0.5 / 255 + 1e-3


def test_what_runs_alone_overwrites_no_map_and_tells_what_it_could_not_do(exports, tmp_path):
    folder, rng = exports["stablehlo"][0], np.random.default_rng(0)
    names = ("a_2.png", "a.png", "a.jpg", "b/a_2.png")
    (tmp_path / "b").mkdir()
    for name in names:
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (40, 60, 3), np.uint8))
    command = [sys.executable, str(folder / "run.py")]
    options = {"capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*command, *names, "absent.png"], cwd=tmp_path, **options)
    assert done.returncode == 1 and "absent.png: not a picture" in done.stderr
    written = {line.rsplit(" ", 1)[1] for line in done.stdout.splitlines()}
    assert len(written) == 4 == len(list(tmp_path.glob("*_heatmap.png")))
    (tmp_path / "c" / "a_heatmap.png").mkdir(parents=True)
    done = subprocess.run([*command, "../a.png"], cwd=tmp_path / "c", **options)
    assert done.returncode == 1 and "a_heatmap.png cannot be written" in done.stderr


def test_a_stablehlo_export_names_no_file_of_this_machine(exports):
    assert b"sapl_jax/" not in (exports["stablehlo"][0] / "model.stablehlo").read_bytes()
    size = json.loads((exports["stablehlo"][0] / "export.json").read_text())["preprocessing"][
        "size"
    ]
    assert (
        f"resizes every picture to {size} pixels"
        in (exports["stablehlo"][0] / "README.md").read_text()
    )


def with_views(trained):
    """The same model, with means over views for answers and maps that stop at outlines."""
    config = copy.deepcopy(trained.config)
    config.model.test_views, config.model.heat_map.colours = True, 0.2
    model = with_parts(trained.model, options=FrozenConfigDict(config.model))
    return trained._replace(model=model, config=config)


def test_an_export_that_runs_alone_stretches_maps_of_views_as_the_package_does(trained, tmp_path):
    stretching, picture = with_views(trained), installed_photographs()[:1]
    stretching.config.model.heat_map.normalize = 0.6
    (found,) = writing.export(stretching, "stablehlo", tmp_path / "out", picture)
    assert found.heat_map < 1e-4
    alone = writing.detector_of_export(tmp_path / "out", "stablehlo", stretching)
    image = read_image(picture[0])
    expected = Localizer(*stretching, tile=0)(image).heat_map
    assert expected.max() == pytest.approx(1)
    for _, heat_map in alone.analyse([image, image]):
        np.testing.assert_allclose(heat_map, expected, atol=0.01)
    folder = tmp_path / "out"
    content = json.loads((folder / "export.json").read_text())
    content["source"]["calibration"] = {"tampered_above": 0.0, "authentic_to": None}
    for tile, said in ((0, "tampered"), (32, "authentic")):
        # A calibration of scores from tiles says nothing of a picture in one piece.
        content["heat_map"]["tile"] = tile
        (folder / "export.json").write_text(json.dumps(content))
        alone = writing.detector_of_export(folder, "stablehlo", stretching)
        assert alone.verdict(0.4) == said
    assert "heat maps [B, 8, 8]" in (tmp_path / "out" / "README.md").read_text()


def test_products_of_an_export_are_of_float32_on_every_device(exports):
    program = jax.export.deserialize((exports["stablehlo"][0] / "model.stablehlo").read_bytes())
    products = [line for line in program.mlir_module().splitlines() if "stablehlo.dot_" in line]
    assert products and all(line.count("HIGHEST") == 2 for line in products)


def test_stablehlo_takes_any_batch_size(exports):
    module = writing.detector_of_export(exports["stablehlo"][0], "stablehlo", None)
    images = [np.full((20 + i, 30, 3), 40 * i, np.uint8) for i in range(5)]
    apart = [module.analyse([image])[0] for image in images]
    for together, alone in zip(module.analyse(images), apart, strict=True):
        np.testing.assert_allclose(together[1], alone[1], atol=1e-5)


def test_huggingface_holds_the_adapted_tower(exports):
    folder, _ = exports["huggingface"]
    original, adapted = load_clip(TINY_CLIP), load_clip(folder)
    before = original.vision.blocks.q.kernel[...]
    after = adapted.vision.blocks.q.kernel[...]
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(
        adapted.vision.blocks.k.kernel[...], original.vision.blocks.k.kernel[...]
    )


@pytest.mark.skipif(
    find_spec("jax2onnx") is None or find_spec("onnxruntime") is None,
    reason="the extra onnx is not installed",
)
def test_onnx_gives_the_checkpoints_heat_maps_for_any_batch_size(trained, tmp_path):
    folder = tmp_path / "onnx"
    trained = with_views(trained)
    found = writing.export(trained, "onnx", folder, installed_photographs())
    assert max(found[0].heat_map, found[1].heat_map) < 1e-4


@pytest.mark.skipif(find_spec("jax2onnx") is not None, reason="the extra onnx is installed")
def test_onnx_without_its_packages_says_what_to_install(trained, tmp_path):
    with pytest.raises(UserError, match=r"sapl-jax\[onnx\]"):
        writing.export(trained, "onnx", tmp_path / "onnx", installed_photographs()[:1])
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_another_version_is_refused(exports, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(exports["orbax"][0], folder)
    described = json.loads((folder / "export.json").read_text())
    described["format_version"] = 99
    (folder / "export.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="format 99.*reads format 1"):
        Localizer.load(folder)
    (folder / "export.json").write_text('{"format":')
    with pytest.raises(UserError, match="export.json is not a readable description"):
        Localizer.load(folder)


def test_a_run_or_export_without_a_field_of_this_version_is_refused(exports, trained_run, tmp_path):
    for source, file in ((exports["orbax"][0], "export.json"), (trained_run, "config.json")):
        folder = tmp_path / file
        shutil.copytree(source, folder)
        stored = json.loads((folder / file).read_text())
        model = stored.get("config", stored)["model"]
        del model["prompts"], model["heat_map"]["sigma"]
        (folder / file).write_text(json.dumps(stored))
        with pytest.raises(UserError, match="another version.*heat_map.sigma.*model.prompts"):
            Localizer.load(folder)


def test_an_export_the_package_does_not_run_is_named(exports):
    with pytest.raises(UserError, match="stablehlo export"):
        Localizer.load(exports["stablehlo"][0])


def test_damaged_weights_are_refused(exports, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exports["orbax"][0], folder)
    largest = max((folder / "weights").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        Localizer.load(folder)
    shutil.rmtree(folder / "weights")
    with pytest.raises(UserError, match="no weights folder"):
        Localizer.load(folder)


def test_what_is_not_an_export_is_never_overwritten(trained, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(mine)
    for output in (mine, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(UserError):
            writing.export(trained, "huggingface", output, installed_photographs()[:1])
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "mine"]


def test_an_earlier_export_is_replaced_and_a_failed_one_leaves_it(exports, trained, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(exports["huggingface"][0], output)
    (output / "notes.txt").write_text("")
    with pytest.raises(UserError, match="notes.txt"):
        writing.export(trained, "huggingface", output, installed_photographs()[:1])
    (output / "notes.txt").rename(output / "run.py")
    with pytest.raises(UserError, match="cannot be opened"):
        writing.export(trained, "huggingface", output, [tmp_path / "absent.png"])
    assert (output / "run.py").exists()
    writing.export(trained, "huggingface", output, installed_photographs()[:1])
    assert not (output / "run.py").exists() and (output / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_in_words_and_leaves_nothing(trained, tmp_path):
    with largest_file(30_000), pytest.raises(UserError, match="cannot be written"):
        writing.export(trained, "huggingface", tmp_path / "out", installed_photographs()[:1])
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_not_exported_onto_itself(exports, monkeypatch):
    folder = str(exports["orbax"][0])
    flags = ["--checkpoint", folder, "--output", f"{folder}/../{exports['orbax'][0].name}"]
    monkeypatch.setattr(sys, "argv", ["export", "--format", "stablehlo", *flags])
    with pytest.raises(UserError, match="is the checkpoint itself"):
        export_command.main()


def test_an_output_that_cannot_be_made_is_refused(trained, tmp_path, exports, monkeypatch):
    (tmp_path / "file").write_text("x")
    flags = ["--checkpoint", str(exports["orbax"][0]), "--output", str(tmp_path / "file" / "out")]
    monkeypatch.setattr(sys, "argv", ["export", "--format", "orbax", *flags])
    monkeypatch.setattr("sapl_jax.inference.opening.load_model", None)  # It is told before.
    with pytest.raises(UserError, match="cannot be written"):
        export_command.main()
    with pytest.raises(UserError, match="cannot be written"):
        writing.export(trained, "orbax", tmp_path / "file" / "out", installed_photographs()[:1])
