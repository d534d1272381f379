"""The layouts of DSO-1, CocoGlide, AutoSplice, OpenForensics and CoMoFoD; CASIA v1.0's names."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines.diagnosis import Finding, diagnose, examine
from data_pipelines.images import read_image
from data_pipelines.masks import load_mask
from data_pipelines.readers import Listing, read_dataset
from sapl_jax.errors import UserError
from sapl_jax.evaluation.evaluator import load_sample
from tests.data_pipelines.trees import write_mask, write_picture, write_tree


def pairs(listing: Listing) -> dict[str, str | int | None]:
    """The mask of each tampered picture, 0 for an authentic one."""
    return {
        sample.image.name: (sample.mask and sample.mask.name) if sample.label else 0
        for sample in listing.samples
    }


def findings(name: str, root: Path) -> list[Finding]:
    listing = read_dataset(name, root)
    return diagnose(listing, examine(listing, progress=False))


def test_casia_v1_pairs_by_the_number_where_names_differ(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [
            "Au/Au_ani_0001.jpg",
            "Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",  # sources swapped
            "Sp/Sp_S_NRN_A_arc0003_arc0009_0233.jpg",  # S for D
            "Sp/Sp_S_NRD_A_ani0040_ani0054.0257.jpg",  # a dot
            "Sp/Sp_D_NRN_A_sce0011_cha0011_0542.jpg",  # has no mask at all
            "Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg",
            "Sp/Sp_S_CND_A_pla0005_pla0005_0281.jpg",  # the number is no help here
            "gt/Sp/Sp_D_CNN_A_ani0032_art0024_0268_gt.png",
            "gt/Sp/Sp_D_NRN_A_arc0003_arc0009_0233_gt.png",
            "gt/CM/Sp_D_NRD_A_ani0040_ani0054_0257_gt.png",
            "gt/CM/Sp_D_CRN_A_pla0005_pla0023_0281_gt.png",
        ],
    )
    listing = read_dataset("casia_v1", tmp_path)
    assert pairs(listing) == {
        "Au_ani_0001.jpg": 0,
        "Sp_D_CNN_A_art0024_ani0032_0268.jpg": "Sp_D_CNN_A_ani0032_art0024_0268_gt.png",
        "Sp_S_NRN_A_arc0003_arc0009_0233.jpg": "Sp_D_NRN_A_arc0003_arc0009_0233_gt.png",
        "Sp_S_NRD_A_ani0040_ani0054.0257.jpg": "Sp_D_NRD_A_ani0040_ani0054_0257_gt.png",
        "Sp_D_CND_A_pla0005_pla0023_0281.jpg": None,
        "Sp_S_CND_A_pla0005_pla0005_0281.jpg": None,
    }
    assert len(listing.notes) == 1 and listing.notes[0].startswith("3 masks")


@pytest.mark.parametrize("folder", ["casia", "modified_casia"])
def test_casia_v1_with_both_copies_takes_the_renamed_one_once(tmp_path: Path, folder: str) -> None:
    root = write_tree(
        tmp_path / folder,
        [
            "Original Tp/Tp/Sp/Sp_D_NND_A_nat0054_nat0054_0189.jpg",
            "Modified Tp/Tp/CM/Sp_S_NND_A_nat0054_nat0054_0189.jpg",
            "gt/CM/Sp_S_NND_A_nat0054_nat0054_0189_gt.png",
        ],
    )
    listing = read_dataset("casia_v1", root)
    assert list(pairs(listing)) == ["Sp_S_NND_A_nat0054_nat0054_0189.jpg"]
    assert "renamed copy" in listing.skipped[0][1]


def test_casia_v2_takes_masks_whose_ending_has_a_digit(tmp_path: Path) -> None:
    stem = "Tp_D_NRD_S_N_cha10002_cha10001_20094"
    write_tree(tmp_path, ["Au/Au_ani_00100.jpg", f"Tp/{stem}.jpg", f"Gt/{stem}_gt3.png"])
    assert pairs(read_dataset("casia_v2", tmp_path))[f"{stem}.jpg"] == f"{stem}_gt3.png"


def test_dso1_masks_are_black_where_tampered(tmp_path: Path) -> None:
    for number, name in enumerate(("normal-01", "splicing-01", "other")):
        write_picture(tmp_path / f"DSO-1/{name}.png", number, (70, 80))
    mask = np.full((70, 80), 255, np.uint8)
    mask[10:20] = 0
    write_mask(tmp_path / "DSO-1-Fake-Images-Masks/splicing-01.png", mask)
    write_tree(tmp_path, ["DSI-1/splicing-02.png"])
    listing = read_dataset("dso1", tmp_path)
    assert pairs(listing) == {"normal-01.png": 0, "splicing-01.png": "splicing-01.png"}
    assert [path.name for path, _ in listing.skipped] == ["other.png"]
    loaded = load_sample(listing.samples[1])
    assert loaded.mask is not None and loaded.mask[15, 0] == 255 and loaded.mask.mean() < 40
    assert [finding.what for finding in findings("dso1", tmp_path)] == [
        "1 authentic and 1 tampered pictures; a complete copy has 100 and 100",
        "1 files are not used",
    ]


def test_cocoglide_pairs_by_coco_s_number(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        ["real/dining table_114871.png", "mask/dining table_114871_mask.png"]
        + ["real/cat_7.png", "mask/cat_7_mask.png", "fake/glide_inpainting_val2017_114871_up.png"]
        + ["fake/glide_inpainting_val2017_8_up.png", "fake/notes.png"],
    )
    (tmp_path / "table.csv").write_text("real,fake,mask,prompt\n")
    listing = read_dataset("cocoglide", tmp_path)
    assert pairs(listing) == {
        "dining table_114871.png": 0,
        "cat_7.png": 0,
        "glide_inpainting_val2017_114871_up.png": "dining table_114871_mask.png",
        "glide_inpainting_val2017_8_up.png": None,
    }
    assert {s.sources for s in listing.samples if "114871" in s.name} == {("114871",)}


def test_autosplice_shares_masks_between_edits_and_reads_one_compression(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [f"Forged_JPEG{quality}/39406_{k}.jpg" for quality in (100, 90, 75) for k in (0, 1)]
        + ["Authentic/39406.jpg", "Forged_JPEG100/5.jpg", "Mask/39406_mask.png", "Mask/5_mask.png"],
    )
    listing = read_dataset("autosplice", tmp_path)
    assert pairs(listing) == {
        "39406.jpg": 0,
        "39406_0.jpg": "39406_mask.png",
        "39406_1.jpg": "39406_mask.png",
        "5.jpg": "5_mask.png",
    }
    assert {s.mask_style for s in listing.samples if s.label} == {"nonzero"}
    other = read_dataset("autosplice", tmp_path / "Forged_JPEG75")
    assert [sample.name for sample in other.samples] == [
        "Authentic/39406.jpg",
        "Forged_JPEG75/39406_0.jpg",
        "Forged_JPEG75/39406_1.jpg",
    ]
    assert "Forged_JPEG75" in other.notes[0]


def test_comofod_leaves_out_processed_versions_and_coloured_masks(tmp_path: Path) -> None:
    names = ["001_O.png", "001_F.png", "001_B.png", "001_M.png", "001_F_JC3.jpg", "001_O_BC1.png"]
    write_tree(tmp_path, [*names, "002_F.png", "x.png"])
    listing = read_dataset("comofod", tmp_path)
    assert pairs(listing) == {"001_F.png": "001_B.png", "001_O.png": 0, "002_F.png": None}
    assert "2 blurred, noisy or compressed" in listing.notes[1]
    assert [path.name for path, _ in listing.skipped] == ["x.png"]


SQUARE = [8, 16, 8, 47, 39, 47, 39, 16]


def annotations(**changes: Any) -> dict[str, Any]:
    """Two pictures, one with a real and a fake face; the fake category is not the second one."""
    faces = [(0, 3, SQUARE), (1, 3, [0, 0, 0, 5, 5, 5]), (1, 9, SQUARE)]
    content = {
        "categories": [{"id": 9, "name": "Fake"}, {"id": 3, "name": "Real"}],
        "images": [
            {"id": n, "file_name": f"Images/Val/{name}.jpg", "height": 64, "width": 80}
            for n, name in enumerate(("a", "b", "gone", "empty"))
        ],
        "annotations": [
            {"image_id": image, "category_id": kind, "segmentation": [polygon]}
            for image, kind, polygon in faces
        ],
    }
    return content | changes


def openforensics(root: Path, content: Any) -> Path:
    for number, name in enumerate(("a", "b", "empty")):
        write_picture(root / f"Val/{name}.jpg", number, (64, 80))
    (root / "Val_poly.json").write_text(json.dumps(content))
    return root


def test_openforensics_labels_by_category_name_and_draws_fake_faces_only(tmp_path: Path) -> None:
    listing = read_dataset("openforensics", openforensics(tmp_path, annotations()))
    assert pairs(listing) == {"a.jpg": 0, "b.jpg": "Val_poly.json"}
    assert [path.name for path, _ in listing.skipped] == ["gone.jpg", "empty.jpg"]
    loaded = load_sample(listing.samples[1])
    assert loaded.mask is not None and loaded.mask.shape == (64, 80)
    rows, columns = np.nonzero(loaded.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 8, 39)
    assert loaded.mask.sum() == 255 * 32 * 32
    whats = [finding.what for finding in findings("openforensics", tmp_path / "Val_poly.json")]
    assert whats == ["2 files are not used"]


def test_openforensics_outlines_follow_a_picture_that_was_made_smaller(tmp_path: Path) -> None:
    root = openforensics(tmp_path, annotations())
    half = cv2.resize(read_image(root / "Val/b.jpg"), (40, 32))
    (sample,) = [s for s in read_dataset("openforensics", root).samples if s.label]
    assert sample.mask is not None
    mask = load_mask(sample.mask, half, sample.mask_style)
    assert mask.note is not None and mask.grey.shape == (32, 40) and mask.grey[20, 10] == 255


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": 3},
        {"images": [{"id": 1}]},
        {"annotations": [{"image_id": 1, "category_id": 9}]},
        {"annotations": [{"image_id": 1, "category_id": 9, "segmentation": [["a"] * 6]}]},
        {"images": [{"id": 1, "file_name": "a.jpg", "height": 1e400, "width": 3}]},
    ],
)
def test_openforensics_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = openforensics(tmp_path, annotations(**changes))
    with pytest.raises(UserError, match="not annotations of OpenForensics"):
        read_dataset("openforensics", root)


@pytest.mark.parametrize(
    ("height", "polygon"),
    [(64, [1, 2]), (64, [float("nan")] * 6), (64, "run-length"), (-64, SQUARE), (10**9, SQUARE)],
)
def test_openforensics_outlines_that_cannot_be_drawn_leave_a_picture_without_a_mask(
    tmp_path: Path, height: int, polygon: Any
) -> None:
    content = annotations(
        images=[{"id": 1, "file_name": "Images/Val/b.jpg", "height": height, "width": 80}],
        annotations=[
            {
                "image_id": 1,
                "category_id": 9,
                "segmentation": polygon if isinstance(polygon, str) else [polygon],
            }
        ],
    )
    (sample,) = read_dataset("openforensics", openforensics(tmp_path, content)).samples
    assert sample.label == 1 and load_sample(sample).mask is None


def test_openforensics_needs_one_part(tmp_path: Path) -> None:
    openforensics(tmp_path, annotations())
    (tmp_path / "Train_poly.json").write_text("{}")
    with pytest.raises(UserError, match="found Train_poly.json, Val_poly.json"):
        read_dataset("openforensics", tmp_path)


@pytest.mark.parametrize("name", ["dso1", "cocoglide", "autosplice", "openforensics", "comofod"])
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, ["pictures/a.jpg"])
    with pytest.raises(UserError, match=f"{tmp_path}.*expected"):
        read_dataset(name, tmp_path)
