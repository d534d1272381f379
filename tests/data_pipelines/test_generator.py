"""The picture generator: repeatable, disjoint sources, masks that mark what changed."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_pipelines import generate as generate_command
from data_pipelines.generator import captions, forgeries
from data_pipelines.generator.camera import Camera, sample_camera
from data_pipelines.generator.captions import CONTENT, HISTORY, captioned_picture
from data_pipelines.generator.examples import (
    NOISE_RATIO,
    _photograph,
    kind_of,
    make_example,
    sources_of,
)
from data_pipelines.generator.folder import MARK, generate
from data_pipelines.generator.forgeries import KINDS, Source, copy_move, draw_paste, remove, splice
from data_pipelines.generator.scenes import KINDS as SCENES
from data_pipelines.generator.scenes import render_scene
from data_pipelines.images import decode_image
from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from sapl_jax.files import PARTIAL, hold_lock


def photo(seed: int) -> Source:
    rng = np.random.default_rng(seed)
    scene = render_scene(rng, 96, 128)
    return Source(sample_camera(rng).shoot(scene.radiance, rng), scene.objects)


def test_the_same_number_gives_the_same_picture_and_another_number_or_seed_another() -> None:
    first, again = make_example(3, 5, 96), make_example(3, 5, 96)
    assert first.jpeg == again.jpeg and np.array_equal(first.mask, again.mask)
    assert len({make_example(seed, n, 96).jpeg for seed in (3, 4) for n in (5, 7)}) == 4


def test_no_two_pictures_share_a_source_within_or_across_seeds() -> None:
    used = [s for seed in (0, 1) for n in range(12) for s in sources_of(seed, n)]
    assert len(used) == len(set(used))
    spliced = next(n for n in range(1, 40, 2) if kind_of(0, n) == "splicing")
    assert len(sources_of(0, spliced)) == 2


def test_sources_with_different_ids_are_different_pictures() -> None:
    pictures = {photo(seed).picture.tobytes() for seed in range(20)}
    assert len(pictures) == 20


@pytest.mark.parametrize("number", range(12))
def test_examples_have_the_size_asked_for_and_masks_within_limits(number: int) -> None:
    example = make_example(1, number, 128)
    picture = decode_image(example.jpeg, "picture")
    assert max(picture.shape[:2]) == 128
    if number % 2 == 0:
        assert example.kind == "authentic" and example.mask is None
    else:
        assert example.kind in KINDS and example.mask is not None
        assert example.mask.shape == picture.shape[:2]
        assert set(np.unique(example.mask)) == {0, 255}
        assert 0.03 < (example.mask > 0).mean() < 0.27


def test_all_kinds_occur_about_equally() -> None:
    kinds = [kind_of(0, n) for n in range(1, 601, 2)]
    assert all(75 <= kinds.count(kind) <= 125 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgery_changes_the_picture_inside_its_mask_and_not_far_outside(kind: str) -> None:
    for seed in range(4):
        rng, target = np.random.default_rng(seed), photo(seed)
        if kind == "splicing":
            forged, mask = splice(rng, target, photo(100 + seed))
        elif kind == "copy-move":
            forged, mask = copy_move(rng, target)
        else:
            forged, mask = remove(rng, target)
        changed = np.any(forged != target.picture, axis=2)
        near = cv2.dilate(mask, np.ones((13, 13), np.uint8)) > 0
        assert not changed[~near].any()
        assert changed[mask > 0].mean() > 0.5


def test_the_donor_of_a_splice_comes_from_a_camera_of_other_noise() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        camera = sample_camera(rng)
        ratio = _photograph(rng, (16, 16), camera)[1].noise / camera.noise
        assert max(ratio, 1 / ratio) >= NOISE_RATIO


def test_the_donor_of_a_splice_is_another_picture(monkeypatch) -> None:
    given = []
    monkeypatch.setattr(
        forgeries, "splice", lambda rng, *both: given.append(both) or splice(rng, *both)
    )
    make_example(0, next(n for n in range(1, 40, 2) if kind_of(0, n) == "splicing"), 64)
    ((target, donor),) = given
    assert (target.picture != donor.picture).mean() > 0.5


def test_a_plain_paste_is_of_whole_pixels() -> None:
    target = photo(0)
    colours = set(map(bytes, target.picture.reshape(-1, 3)))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        moved, mask = draw_paste(rng, target, target, lambda: (1.0, 0.0))
        assert set(map(bytes, moved[mask > 0])) <= colours


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_stay_within_range_and_use_the_captions_vocabulary(scene) -> None:
    for seed in range(3):
        made = render_scene(np.random.default_rng(seed), 64, 96)
        assert made.radiance.dtype == np.float32 and made.radiance.shape == (64, 96, 3)
        assert made.radiance.min() >= 0 and made.radiance.max() <= 1
        assert set(scene(np.random.default_rng(seed), 64, 96).words) <= set(CONTENT)


def plain_camera(**different) -> Camera:
    """A camera that neither adds anything nor takes anything away, but for what is named."""
    nothing = {"blur": 0.3, "aberration": 0.0, "vignetting": 0.0, "read_noise": 0.0}
    nothing |= {"shot_noise": 0.0, "white_balance": (1.0, 1.0), "saturation": 1.0, "gamma": 1.0}
    nothing |= {"contrast": 0.0, "denoising": 0.0, "sharpening": 0.0, "quality": 100}
    return replace(sample_camera(np.random.default_rng(0)), **nothing | different)


def shot(radiance: np.ndarray, **different) -> np.ndarray:
    """What a plain camera makes of linear light, float [H, W, 3]."""
    light = radiance.astype(np.float32)
    return plain_camera(**different).shoot(light, np.random.default_rng(0)).astype(float)


def test_lenses_lose_light_in_the_corners() -> None:
    seen = plain_camera(vignetting=0.4)._optics(np.full((65, 97, 3), 0.8, np.float32))
    for y, x, left in ((32, 48, 1.0), (0, 48, 0.8), (32, 96, 0.8), (0, 0, 0.6), (64, 96, 0.6)):
        np.testing.assert_allclose(seen[y, x], 0.8 * left, rtol=1e-4)


def test_lenses_magnify_red_more_and_blue_less() -> None:
    light = np.zeros((64, 96, 3), np.float32)
    light[19:22, 69:72] = 1  # 11.5 rows and 22.5 columns from the centre
    seen = plain_camera(aberration=0.1)._optics(light)
    for channel, times in enumerate((1.1, 1.0, 0.9)):
        weight = seen[..., channel] / seen[..., channel].sum()
        centroid = [(weight * index).sum() for index in np.indices(weight.shape)]
        wanted = [31.5 - 11.5 * times, 47.5 + 22.5 * times]
        np.testing.assert_allclose(centroid, wanted, atol=0.1)


def test_the_noise_of_a_sensor_grows_with_its_light() -> None:
    camera, rng = plain_camera(read_noise=0.02, shot_noise=0.002), np.random.default_rng(0)
    for signal in (0.05, 0.6):
        raw = camera._sensor(np.full((256, 256, 3), signal, np.float32), rng) / 60000
        assert raw.var() == pytest.approx(0.02**2 + 0.002 * signal, rel=0.04)


def test_gains_and_gamma_are_the_cameras() -> None:
    flat = np.full((64, 64, 3), 0.3)
    balanced = shot(flat, white_balance=(1.2, 0.8))[16:48, 16:48].mean((0, 1))
    np.testing.assert_allclose(balanced, [91.8, 76.5, 61.2], atol=2)
    np.testing.assert_allclose(shot(flat, gamma=2.0).mean(), 0.3**0.5 * 255, atol=2)


def test_sharpening_overshoots_at_both_sides_of_an_edge() -> None:
    step = np.full((64, 64, 3), 0.3)
    step[:, 32:] = 0.6
    plain, sharp = shot(step), shot(step, sharpening=1.0, sharpening_radius=1.5)
    assert sharp.max() > plain.max() + 10 and sharp.min() < plain.min() - 10


def test_the_cameras_jpeg_is_of_its_quality() -> None:
    light = np.random.default_rng(0).random((64, 64, 3))
    best = shot(light)
    lost = [np.abs(shot(light, quality=quality) - best).mean() for quality in (95, 60, 20)]
    assert 0 < lost[0] < lost[1] < lost[2]


def test_less_than_half_of_a_copy_lies_on_its_origin(monkeypatch) -> None:
    regions, choose = [], forgeries.choose_region
    monkeypatch.setattr(
        forgeries, "choose_region", lambda *args: regions.append(choose(*args)) or regions[-1]
    )
    target = photo(0)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        _, mask = draw_paste(rng, target, target, lambda: (1.0, 0.0), objects=0.0)
        assert np.mean(regions[-1][mask > 0] > 0) < 0.5


def test_what_is_removed_is_painted_over_one_pixel_beyond_its_outline(monkeypatch) -> None:
    region, wanted = np.zeros((2, 96, 128), np.uint8)
    region[20:50, 30:70] = wanted[19:51, 29:71] = 255
    monkeypatch.setattr(forgeries, "choose_region", lambda *_, **__: region)
    _, mask = remove(np.random.default_rng(0), photo(0))
    np.testing.assert_array_equal(mask, wanted)


def test_every_bayer_pattern_reproduces_a_flat_colour() -> None:
    flat = np.broadcast_to(np.float32([0.5, 0.3, 0.1]), (64, 64, 3))
    plain = plain_camera()
    for bayer in ("RG", "GR", "BG", "GB"):
        for demosaicing in ("bilinear", "adaptive"):
            camera = replace(plain, bayer=bayer, demosaicing=demosaicing)
            centre = camera.shoot(flat, np.random.default_rng(0))[16:48, 16:48]
            np.testing.assert_allclose(centre.mean((0, 1)), [127.5, 76.5, 25.5], atol=2)


def test_a_noisier_camera_gives_a_noisier_picture() -> None:
    camera = replace(sample_camera(np.random.default_rng(1)), denoising=0.0)
    flat = np.full((64, 64, 3), 0.2, np.float32)
    levels = []
    for read_noise in (0.002, 0.01, 0.05):
        taken = replace(camera, read_noise=read_noise).shoot(flat, np.random.default_rng(0))
        levels.append(taken[8:56, 8:56].std(axis=(0, 1)).mean())
    assert levels[0] < levels[1] < levels[2]


def test_captions_have_one_known_word_per_property() -> None:
    captioned = captioned_picture(0, 1, 64)
    assert captioned.picture.shape == (64, 64, 3)
    for word, words in zip(captioned.history, HISTORY.values(), strict=True):
        assert word in words
    assert not {"real", "fake", "authentic", "tampered"} & {w for v in HISTORY.values() for w in v}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("blur", {0.7: "sharp", 0.9: "soft", 1.1: "blurred"}),
        ("denoising", {0.0: "untouched", 0.2: "smoothed"}),
        ("sharpening", {0.0: "plain", 0.5: "crisp", 1.0: "harsh"}),
        ("quality", {88: "coarse", 93: "medium", 97: "high"}),
        ("white_balance", {(0.85, 1.0): "cool", (1.0, 1.0): "neutral", (1.0, 0.85): "warm"}),
        ("demosaicing", {word: word for word in HISTORY["demosaicing"]}),
    ],
)
def test_captions_tell_of_the_camera(monkeypatch, name, values) -> None:
    for value, word in values.items():
        camera = plain_camera(**{name: value})
        monkeypatch.setattr(captions, "sample_camera", lambda _, camera=camera: camera)
        assert word in captioned_picture(0, 1, 64).history


def test_the_folder_is_read_as_a_generic_data_set_with_all_masks(tmp_path) -> None:
    generate(tmp_path / "set", 6, seed=2, size=64, workers=1)
    listing = read_dataset("folder", tmp_path / "set")
    assert [s.label for s in listing.samples].count(0) == 3 and not listing.skipped
    assert all(s.mask is not None for s in listing.samples if s.label == 1)


def test_an_interrupted_run_is_continued_and_a_second_run_changes_nothing(tmp_path) -> None:
    whole = generate(tmp_path / "whole", 6, seed=2, size=64, workers=1)
    part = generate(tmp_path / "part", 4, seed=2, size=64, workers=1)
    lost = next((part / "Tp").iterdir())
    lost.unlink()
    kept = next((part / "Au").iterdir())
    before = kept.stat().st_mtime_ns
    generate(part, 6, seed=2, size=64, workers=1)
    assert kept.stat().st_mtime_ns == before
    files = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert files == {p.relative_to(part): p.read_bytes() for p in part.rglob("*") if p.is_file()}


def test_sources_are_known_of_what_an_interrupted_run_left_and_never_cut(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data_pipelines.generator.folder._write_one", fail)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", 6, seed=2, size=64, workers=1)
    table = tmp_path / "set" / "sources.csv"
    assert len(table.read_text().splitlines()) == 7
    generate(tmp_path / "set", 6, seed=2, size=64, workers=1)
    whole = table.read_bytes()
    with pytest.raises(UserError, match="pictures up to number 5. Give --images 6 or more"):
        generate(tmp_path / "set", 4, seed=2, size=64, workers=1)
    assert table.read_bytes() == whole


def test_processes_write_what_one_process_writes(tmp_path) -> None:
    one = generate(tmp_path / "one", 10, seed=5, size=64, workers=1)
    two = generate(tmp_path / "two", 10, seed=5, size=64, workers=2)
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_a_second_process_waits_for_the_first(tmp_path, capsys) -> None:
    folder = generate(tmp_path / "set", 2, seed=5, size=64, workers=1)
    with ThreadPoolExecutor(1) as pool:
        with hold_lock(folder / MARK):
            more = pool.submit(generate, folder, 4, seed=5, size=64, workers=1)
            while "waiting for another process" not in capsys.readouterr().err:
                time.sleep(0.01)
            assert len(list(folder.rglob("*.jpg"))) == 2
        more.result(timeout=60)
    assert len(list(folder.rglob("*.jpg"))) == 4


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match="cannot be locked"):
        generate(tmp_path / "set", 2, seed=5, size=64, workers=1)


def test_another_seed_or_a_foreign_folder_is_refused_and_left_alone(tmp_path) -> None:
    generate(tmp_path / "set", 2, seed=2, size=64, workers=1)
    with pytest.raises(UserError, match="another --output"):
        generate(tmp_path / "set", 2, seed=3, size=64, workers=1)
    foreign = tmp_path / "holiday"
    foreign.mkdir()
    (foreign / "beach.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not empty"):
        generate(foreign, 2, seed=2, size=64, workers=1)
    assert [p.name for p in foreign.iterdir()] == ["beach.jpg"]


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path, monkeypatch) -> None:
    import errno
    from pathlib import Path

    replace, written = Path.replace, []

    def limited(self: Path, target: Path) -> Path:
        written.append(self)
        if len(written) > 4:  # between a mask and its picture
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", limited)
    with pytest.raises(UserError, match="No space left.*same command"):
        generate(tmp_path / "set", 6, seed=2, size=64, workers=1)
    monkeypatch.undo()
    assert not list(tmp_path.rglob(f"*{PARTIAL}"))
    # A mask comes before its picture.
    assert len(list(tmp_path.rglob("*_gt.png"))) == 1 and not list(tmp_path.rglob("Tp/*.jpg"))
    generate(tmp_path / "set", 6, seed=2, size=64, workers=1)
    assert len(list(tmp_path.rglob("*.jpg"))) == 6


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--images=1", "--images is 1; expected 2 to"),
        ("--seed=-1", "--seed is -1; expected 0 to"),
        ("--size=8", "--size is 8; expected 64 to"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, monkeypatch, flag, message) -> None:
    monkeypatch.setattr("sys.argv", ["x", f"--output={tmp_path / 'set'}", "--images=4", flag])
    with pytest.raises(UserError, match=message):
        generate_command.main()
    assert not (tmp_path / "set").exists()
