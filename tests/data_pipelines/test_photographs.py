"""Forgeries from photographs: splits that share none, objects by outlines, the same each time."""

import csv
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import generate as command
from data_pipelines.generator.captions import HISTORY, captioned_picture
from data_pipelines.generator.examples import make_example
from data_pipelines.generator.folder import generate
from data_pipelines.generator.photographs import (
    ODDS,
    SPLITS,
    Library,
    find_segments,
    forged_kind_of,
    forged_sources_of,
    installed_photographs,
    open_library,
    photograph_example,
)
from data_pipelines.images import decode_image, resave
from data_pipelines.readers import read_dataset
from data_pipelines.splits import split_samples
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import write_picture

COUNT = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs of generated scenes; label images with one slanted bar, seven times as long."""
    pictures, labels = (tmp_path_factory.mktemp(name) for name in ("pictures", "labels"))
    for n in range(COUNT):
        (pictures / f"picture{n}.jpg").write_bytes(make_example(9, 2 * n, 160).jpeg)
        shape = cv2.imread(str(pictures / f"picture{n}.jpg")).shape[:2]
        box = cv2.boxPoints(((shape[1] / 2, shape[0] / 2), (105, 15), 20)).astype(np.int32)
        write_picture(labels / f"picture{n}.png", cv2.fillPoly(np.zeros(shape, np.uint8), [box], 7))
    return pictures, labels


def _generate(
    output: Path, folders: tuple[Path, Path], images: int, split: str = "train", size: int = 96
) -> Path:
    return generate(
        output, images, 0, size, photographs=folders[0], segments=folders[1], split=split,
        workers=1,
    )  # fmt: skip


def test_splits_share_no_photograph_and_keep_theirs_when_others_come(folders, tmp_path) -> None:
    found = {split: set(open_library(folders[0], None, split).pictures) for split in SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == COUNT
    assert len(found["train"]) > len(found["validation"]) + len(found["test"])
    shutil.copytree(folders[0], tmp_path / "more")
    for n in range(30):
        shutil.copy(folders[0] / "picture0.jpg", tmp_path / f"more/new{n}.jpg")
    for split, paths in found.items():
        names = {path.name for path in open_library(tmp_path / "more", None, split).pictures}
        assert {path.name for path in paths} <= names


def test_the_same_number_is_the_same_picture_and_its_pair_shows_the_same_photograph(
    folders,
) -> None:
    library = open_library(*folders)
    first, again = (photograph_example(library, 1, 7, 96) for _ in range(2))
    assert first.jpeg == again.jpeg and np.array_equal(first.mask, again.mask)
    assert photograph_example(library, 2, 7, 96).jpeg != first.jpeg
    for n in range(0, 20, 2):
        assert forged_sources_of(library, 1, n)[:2] == forged_sources_of(library, 1, n + 1)[:2]
    kinds = [forged_kind_of(1, n) for n in range(1, 601, 2)]
    assert all(abs(kinds.count(kind) / 300 - odds) < 0.1 for kind, odds in ODDS.items())


def test_a_pair_differs_around_its_forgery_alone(folders) -> None:
    library = open_library(*folders)
    for n in range(1, 13, 2):
        pair = [photograph_example(library, 1, k, 128) for k in (n - 1, n)]
        authentic, forged = (decode_image(one.jpeg, one.kind) for one in pair)
        far = cv2.dilate(pair[1].mask, np.ones((65, 65), np.uint8)) == 0  # not in its JPEG blocks
        assert far.any() and np.array_equal(authentic[far], forged[far])


def test_hard_copies_are_laid_into_finished_crops_whose_twins_are_saved_alike(folders) -> None:
    library = open_library(*folders)
    for n in range(0, 12, 2):
        crop = photograph_example(library, 1, n, 128)
        authentic, forged = (
            photograph_example(library, 1, k, 128, "copy-move") for k in (n, n + 1)
        )
        before, twin, picture = (decode_image(e.jpeg, e.kind) for e in (crop, authentic, forged))
        assert (authentic.kind, forged.kind, authentic.mask) == ("authentic", "copy-move", None)
        assert any((twin == resave(before, quality, "4:4:4")).all() for quality in range(90, 99))
        far = cv2.dilate(forged.mask, np.ones((17, 17), np.uint8)) == 0  # not in its JPEG blocks
        assert far.any() and np.array_equal(twin[far], picture[far])
        assert np.abs(twin.astype(int) - picture)[forged.mask > 0].mean() > 3
    odd = [forged_kind_of(1, n, "copy-move") for n in range(1, 99, 2)]
    assert set(odd) == {"copy-move"}
    assert all(len(forged_sources_of(library, 1, n, "copy-move")) == 2 for n in range(40))


def test_every_photograph_is_used_equally_often_and_a_donor_is_another_one(folders) -> None:
    library = open_library(*folders)
    used = [forged_sources_of(library, 3, n) for n in range(2 * len(library.pictures))]
    assert {names[1] for names in used} == {path.name for path in library.pictures}
    assert all(len(set(names)) == len(names) for names in used)
    assert max(map(len, used)) == 3


def test_the_folder_can_be_split_again_without_sharing_a_photograph(folders, tmp_path) -> None:
    samples = read_dataset("folder", _generate(tmp_path / "set", folders, 240, size=64)).samples
    assert len(samples) == 240
    split = split_samples(samples, 0.25, seed=0)
    seen = {source for sample in split.train for source in sample.sources}
    assert split.shared == 0 and len(split.validation) > 4
    assert not any(seen & set(sample.sources) for sample in split.validation)


def test_the_splits_folders_name_disjoint_sources(folders, tmp_path) -> None:
    names = []
    for split in ("train", "test"):
        folder = _generate(tmp_path / split, folders, 12, split)
        with open(folder / "sources.csv", newline="") as file:
            names.append({s for row in csv.DictReader(file) for s in row["sources"].split("/")})
    assert not names[0] & names[1]


def test_given_outlines_are_cut_and_without_them_others(folders) -> None:
    def elongation(library) -> float:
        values = []
        for n in range(1, 41, 2):
            example = photograph_example(library, 4, n, 160)
            if example.kind == "splicing":
                sides = cv2.minAreaRect(cv2.findNonZero(example.mask))[1]
                values.append(max(sides) / min(sides))
        return float(np.median(values))

    assert elongation(open_library(*folders)) > 4 > 2.5 > elongation(open_library(folders[0]))


def test_objects_of_even_colour_are_found() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((120, 160, 3), (60, 110, 170), np.float32)
    inside = np.zeros((120, 160), np.uint8)
    cv2.ellipse(inside, (70, 60), (40, 25), 20, 0, 360, 1, -1)
    picture[inside > 0] = (190, 150, 60)
    noisy = np.clip(picture + 6 * rng.standard_normal(picture.shape), 0, 255).astype(np.uint8)
    labels = find_segments(noisy)
    found = labels == labels[60, 70]
    assert (found & (inside > 0)).sum() / (found | (inside > 0)).sum() > 0.9


def test_strips_are_forged_in_bounded_time(tmp_path) -> None:
    """A scrolled screenshot is so long that no region of it fits."""
    china, flower = installed_photographs()
    for width in (60, 1):
        strip = cv2.resize(cv2.imread(str(china)), (width, 1500))
        cv2.imwrite(str(tmp_path / "strip.png"), strip)
        library = Library((tmp_path / "strip.png", flower), {}, "train")
        for number in range(8):
            found = photograph_example(library, 3, number, 128)
            assert (found.mask is None) == (number % 2 == 0)


def test_objects_of_16_bit_label_images_keep_apart(folders, tmp_path) -> None:
    pictures, labels = folders
    for path in labels.iterdir():
        few = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
        few[: len(few) // 2] //= 2  # two objects
        write_picture(tmp_path / "few" / path.name, few.astype("u1"))
        write_picture(tmp_path / "many" / path.name, np.where(few > 0, few + 300, 0).astype("u2"))
    library, many = (open_library(pictures, tmp_path / name) for name in ("few", "many"))
    for number in range(6):
        wanted = photograph_example(library, 3, number, 96)
        assert photograph_example(many, 3, number, 96).jpeg == wanted.jpeg


def test_an_interrupted_run_is_continued_and_a_changed_library_refused(folders, tmp_path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(folders[0], pictures)
    whole = _generate(tmp_path / "whole", (pictures, folders[1]), 8)
    part = _generate(tmp_path / "part", (pictures, folders[1]), 4)
    _generate(part, (pictures, folders[1]), 8)
    files = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert files == {p.relative_to(part): p.read_bytes() for p in part.rglob("*") if p.is_file()}
    for path in open_library(pictures).pictures[:1]:
        path.unlink()
    with pytest.raises(UserError, match="another --output"):
        _generate(part, (pictures, folders[1]), 8)


def test_what_cannot_be_used_is_said(folders, tmp_path) -> None:
    pictures, labels = folders
    with pytest.raises(UserError, match="--photographs .*no such folder"):
        open_library(tmp_path / "none")
    with pytest.raises(UserError, match="0 of its 0 photographs belong to --split train"):
        open_library(tmp_path)
    write_picture(tmp_path / "other.png", np.ones((9, 9), np.uint8))
    with pytest.raises(UserError, match="none of its 1 pictures is named as a photograph"):
        open_library(pictures, tmp_path)
    for path in pictures.iterdir():
        write_picture(tmp_path / f"small/{path.stem}.png", np.ones((9, 9), np.uint8))
    with pytest.raises(UserError, match="9 x 9 pixels, but its photograph has"):
        _generate(tmp_path / "set", (pictures, tmp_path / "small"), 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--photographs", "x", "--world", "seam"], "--world seam is for generated pictures"),
        (["--segments", "x"], "are for photographs"),
        (["--split", "test"], "are for photographs"),
        (["--seed", str(2**32)], "--seed is 4294967296; expected 0 to 1000000000"),
        (["--workers", "-1"], "--workers is -1; expected 1 to 1024"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(monkeypatch, tmp_path, flags, message) -> None:
    monkeypatch.setattr(
        sys, "argv", ["generate", "--output", str(tmp_path / "set"), "--images", "4", *flags]
    )
    with pytest.raises(UserError, match=message):
        command.main()
    assert not (tmp_path / "set").exists()


def test_the_command_forges_photographs(monkeypatch, capsys, tmp_path, folders) -> None:
    flags = ["--photographs", str(folders[0]), "--size", "64", "--workers", "1", "--images", "6"]
    monkeypatch.setattr(sys, "argv", ["generate", "--output", str(tmp_path / "set"), *flags])
    (folders[0] / "IMG_1.HEIC").write_bytes(b"")
    command.main()
    assert len(read_dataset("folder", tmp_path / "set").samples) == 6
    printed = capsys.readouterr()
    assert "6 pictures in" in printed.out
    assert "1 left out, for instance 'IMG_1.HEIC': not a picture file (.HEIC)" in printed.err


def test_a_damaged_photograph_is_left_out_and_told(capsys, folders, tmp_path) -> None:
    copied = shutil.copytree(folders[0], tmp_path / "pictures")
    good = open_library(copied)
    (victim := good.pictures[0]).write_bytes(victim.read_bytes()[:500])
    assert open_library(copied).pictures == good.pictures[1:]
    assert f"1 left out, for instance {victim}: truncated" in capsys.readouterr().err
    labels = shutil.copytree(folders[1], tmp_path / "labels")
    (labels / f"{good.pictures[1].stem}.png").write_bytes(b"no picture")
    found = open_library(copied, labels).segments
    assert sorted(found) == sorted(path.stem for path in good.pictures[2:])
    assert "--segments: 1 left out" in capsys.readouterr().err


def test_a_captioned_photograph_shows_it_and_carries_true_words(tmp_path) -> None:
    grey = np.linspace(60, 180, 400, dtype=np.uint8)
    ramp = np.repeat(np.tile(grey, (300, 1))[..., None], 3, axis=2)
    ramp[..., 2] = 30  # little blue
    path = write_picture(tmp_path / "ramp.png", ramp)
    found = [captioned_picture(3, n, 96, (path,)) for n in range(24)]
    again = captioned_picture(3, 0, 96, (path,))
    assert again.history == found[0].history
    np.testing.assert_array_equal(again.picture, found[0].picture)
    assert len({one.picture.tobytes() for one in found}) == 24
    strength = dict(zip(HISTORY["grain"], range(7), strict=True))
    for one in found:
        assert one.picture.shape == (96, 96, 3) and one.content == ()
        assert all(w in words for w, words in zip(one.history, HISTORY.values(), strict=True))
        red, green, blue = one.picture.reshape(-1, 3).astype(float).mean(0)
        assert blue < min(red, green) - 20  # the photograph's colours, not a scene's
    # What the ramp does not have was put there by the camera, and the caption says how much.
    rough = [np.diff(one.picture[:, :, 1].astype(float), axis=0).std() for one in found]
    assert np.corrcoef(rough, [strength[one.history[-1]] for one in found])[0, 1] > 0.6
