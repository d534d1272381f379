"""Listing data sets: pairing by stem, odd names, and errors that say what to do."""

import os
from pathlib import Path

import pytest

from data_pipelines.listing import AUTHENTIC, TAMPERED
from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import pairs


def tree(root: Path, *names: str) -> Path:
    """Files at these paths; listing never opens them, so they hold nothing."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_masks_pair_by_exact_stem_dots_included(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "Au/a.jpg",
        "Tp/a.b.c.JPG",
        "Tp/a.b.TIFF",
        "Tp/z.png",
        "Gt/a.b.c_gt.png",
        "Gt/a.b_gt.png",
        "Gt/a_gt.png",
        "Gt/zz_gt.png",
    )
    listing = read_dataset("folder", root)
    assert pairs(listing) == {
        "Au/a.jpg": 0,  # an authentic picture has no mask, whatever the stem
        "Tp/a.b.c.JPG": "Gt/a.b.c_gt.png",
        "Tp/a.b.TIFF": "Gt/a.b_gt.png",
        "Tp/z.png": None,
    }
    assert [s.label for s in listing.samples] == [AUTHENTIC, TAMPERED, TAMPERED, TAMPERED]


@pytest.mark.parametrize(
    "folder", ["Gt", "CASIA 2 Groundtruth", "CASIA2.0_Groundtruth", "Groundtruth"]
)
def test_casia_masks_are_found_in_any_of_their_folders(tmp_path: Path, folder: str) -> None:
    stem = "Tp_D_CRN_M_N_ani00100_ani10101_10089"
    root = tree(tmp_path, "Au/Au_ani_00100.jpg", f"Tp/{stem}.tif", f"{folder}/{stem}_gt.png")
    listing = read_dataset("casia_v2", root)
    assert pairs(listing)[f"Tp/{stem}.tif"] == f"{folder}/{stem}_gt.png"
    assert [s.sources for s in listing.samples] == [("ani00100",), ("ani00100", "ani10101")]
    assert listing.notes == []


def test_casia_masks_unpacked_beside_the_pictures_are_found(tmp_path: Path, monkeypatch) -> None:
    stem = "Tp_D_CRN_M_N_ani00100_ani10101_10089"
    pictures = tmp_path / "CASIA2.0_revised"
    tree(tmp_path, f"CASIA2.0_revised/Tp/{stem}.tif", f"CASIA2.0_Groundtruth/{stem}_gt.png")
    (sample,) = read_dataset("casia_v2", pictures).samples
    assert sample.mask == tmp_path / f"CASIA2.0_Groundtruth/{stem}_gt.png"
    (sample,) = read_dataset("folder", pictures).samples  # Others' neighbours are not its own.
    assert sample.mask is None
    monkeypatch.chdir(pictures)
    assert read_dataset("casia_v2", ".").samples[0].mask is not None


def test_casia_masks_may_have_a_digit_after_their_ending(tmp_path: Path) -> None:
    stem = "Tp_D_NRD_S_N_cha10002_cha10001_20094"
    tree(tmp_path, "Au/Au_ani_00100.jpg", f"Tp/{stem}.jpg", f"Gt/{stem}_gt3.png")
    found = pairs(read_dataset("casia_v2", tmp_path))
    assert found[f"Tp/{stem}.jpg"] == f"Gt/{stem}_gt3.png"


def test_misnamed_casia_mask_pairs_by_serial_number_when_unambiguous(tmp_path: Path) -> None:
    pair = "ani00001_ani00001"
    root = tree(
        tmp_path,
        "Au/Au_ani_00001.jpg",
        f"Tp/Tp_S_NRN_S_N_{pair}_00007.jpg",
        f"Gt/Tp_D_NRN_S_N_{pair}_00007_gt.png",
        f"Tp/Tp_S_NRN_S_N_{pair}_00008.jpg",
        f"Tp/Tp_S_NRN_S_O_{pair}_00008.jpg",
        f"Gt/Tp_D_NRN_S_N_{pair}_00008_gt.png",
    )
    listing = read_dataset("casia_v2", root)
    found = pairs(listing)
    assert found[f"Tp/Tp_S_NRN_S_N_{pair}_00007.jpg"] == f"Gt/Tp_D_NRN_S_N_{pair}_00007_gt.png"
    assert found[f"Tp/Tp_S_NRN_S_N_{pair}_00008.jpg"] is None
    assert found[f"Tp/Tp_S_NRN_S_O_{pair}_00008.jpg"] is None
    assert len(listing.notes) == 1 and listing.notes[0].startswith("1 masks")


def test_other_files_are_listed_with_reasons_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path, "Au/a.jpg", "Au/.DS_Store", "Tp/b.jpg", "Tp/x.db", "Tp/deep/c.jpg")
    tree(root, "Au/Thumbs.db", "Tp/_list.txt", "Tp/desktop.ini")  # as untouched copies have them
    listing = read_dataset("folder", root)
    assert [(p.name, reason.split(";")[0]) for p, reason in listing.skipped] == [
        ("deep", "a folder"),
        ("x.db", "not a picture file (.db)"),
    ]


def test_links_to_nothing_pipes_and_names_that_are_no_text_are_listed_not_read(
    tmp_path: Path,
) -> None:
    root = tree(tmp_path, "Au/a.jpg", "Tp/b.jpg", "Tp/\udcffc.jpg", "Tp/\udcff.db")
    (root / "Tp" / "gone.jpg").symlink_to(root / "nothing.jpg")
    os.mkfifo(root / "Tp" / "pipe.jpg")
    listing = read_dataset("folder", root)
    assert [sample.name for sample in listing.samples] == ["Au/a.jpg", "Tp/b.jpg"]
    no_file, no_text = "a link to nothing, or no regular file", "its name is not UTF-8; rename it"
    assert {(path.name, reason) for path, reason in listing.skipped} == {
        ("gone.jpg", no_file),
        ("pipe.jpg", no_file),
        ("\\xffc.jpg", no_text),
        ("\\xff.db", no_text),
    }


def test_names_are_unique_where_stems_are_not(tmp_path: Path) -> None:
    listing = read_dataset("folder", tree(tmp_path, "Au/1.png", "Tp/1.png", "Tp/1.jpg"))
    assert [s.name for s in listing.samples] == ["Au/1.png", "Tp/1.jpg", "Tp/1.png"]


def test_one_class_is_an_error_only_where_both_are_needed(tmp_path: Path) -> None:
    root = tree(tmp_path, "Tp/a.jpg")
    assert len(read_dataset("folder", root).samples) == 1
    with pytest.raises(UserError, match=r"0 authentic and 1 tampered.*needs both"):
        read_dataset("folder", root, both_classes=True)


def test_errors_say_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_dataset("casia_v2", tmp_path / "nothing")
    with pytest.raises(UserError, match="that is a file"):
        read_dataset("casia_v2", tree(tmp_path / "f", "file") / "file")
    with pytest.raises(UserError, match=r"folders found: none.*Expected Au/"):
        read_dataset("folder", tree(tmp_path / "e", "readme.txt"))
    with pytest.raises(UserError, match="did you mean that"):
        read_dataset("folder", tree(tmp_path / "g", "CASIA2/Au/a.jpg"))
    with pytest.raises(UserError, match=r"folders found: Au, Tp\)"):  # ROOT/Au is half of it.
        read_dataset("folder", tree(tmp_path / "d", "Au/Au/a.jpg", "Tp/Tp/b.jpg"))
    with pytest.raises(UserError, match="4cam_auth: a folder; pictures are only looked for"):
        read_dataset("columbia", tree(tmp_path / "c", "4cam_auth/4cam_auth/a.tif"))
    with pytest.raises(UserError, match=r"not CASIA v2\.0.*--dataset folder"):
        read_dataset("casia_v2", tree(tmp_path / "h", "Au/dog.jpg", "Tp/cat.jpg"))
    with pytest.raises(UserError, match=r"choose one of: .*casia_v2, .*folder"):
        read_dataset("cassia", tmp_path)


def test_a_folder_that_may_not_be_listed_is_told(tmp_path: Path, monkeypatch) -> None:
    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=rf"{tmp_path}: cannot be read \(Permission denied\)"):
        read_dataset("folder", tmp_path)
