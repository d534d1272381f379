"""Each test set's exact layout gives the right labels, masks and skipped files."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.doctor import diagnose, examine
from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from sapl_jax.evaluation.evaluator import load_sample
from tests.data_pipelines.picture_trees import pairs, write_picture, write_random, write_tree


def test_casia_v1_in_its_published_folders(tmp_path: Path) -> None:
    tree = "CASIA 1.0 dataset/Modified Tp/Tp"
    truth = "CASIA 1.0 groundtruth"
    expected = {
        "CASIA 1.0 dataset/Au/Au_ani_0001.jpg": 0,
        f"{tree}/CM/Sp_S_NNN_A_ani0042_ani0042_0010.jpg": (
            f"{truth}/CM/Sp_S_NNN_A_ani0042_ani0042_0010_gt.png"
        ),
        f"{tree}/Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg": (
            f"{truth}/Sp/Sp_D_CND_A_pla0005_pla0023_0281_gt.png"
        ),
    }
    no_mask = f"{tree}/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg"
    write_tree(tmp_path, [*expected, *filter(None, expected.values()), no_mask])
    listing = read_dataset("casia_v1", tmp_path)
    assert pairs(listing) == expected
    assert [(path.stem[-4:], "no mask" in why) for path, why in listing.skipped] == [("0542", True)]


def test_casia_v1_keeps_dotted_stems_apart_and_prefers_the_modified_copy(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [
            "Au/Au_ani_0001.jpg",
            "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268.jpg",
            "Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
            "Modified Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
            "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268_gt.png",
        ],
    )
    listing = read_dataset("casia_v1", tmp_path)
    assert pairs(listing) == {
        "Au/Au_ani_0001.jpg": 0,
        "Modified Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg": None,
        "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268.jpg": "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268_gt.png",
    }
    assert [why.split(" /")[0] for _, why in listing.skipped] == ["the same name as"]


def test_casia_v1_pairs_by_the_number_where_names_differ(tmp_path: Path) -> None:
    expected = {
        "Au/Au_ani_0001.jpg": 0,
        # Sources swapped, S for D, a dot.
        "Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg": "gt/Sp/Sp_D_CNN_A_ani0032_art0024_0268_gt.png",
        "Sp/Sp_S_NRN_A_arc0003_arc0009_0233.jpg": "gt/Sp/Sp_D_NRN_A_arc0003_arc0009_0233_gt.png",
        "Sp/Sp_S_NRD_A_ani0040_ani0054.0257.jpg": "gt/CM/Sp_D_NRD_A_ani0040_ani0054_0257_gt.png",
        # The number is no help here.
        "Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg": None,
        "Sp/Sp_S_CND_A_pla0005_pla0005_0281.jpg": None,
    }
    others = [
        "Sp/Sp_D_NRN_A_sce0011_cha0011_0542.jpg",  # has no mask at all
        "gt/CM/Sp_D_CRN_A_pla0005_pla0023_0281_gt.png",
    ]
    write_tree(tmp_path, [*expected, *filter(None, expected.values()), *others])
    listing = read_dataset("casia_v1", tmp_path)
    assert pairs(listing) == expected
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
    assert list(pairs(listing)) == ["Modified Tp/Tp/CM/Sp_S_NND_A_nat0054_nat0054_0189.jpg"]
    assert "renamed copy" in listing.skipped[0][1]


def test_casia_v1_takes_no_results_of_predict_for_pictures(tmp_path: Path) -> None:
    stem = "Sp_D_CND_A_pla0005_pla0023_0281"
    kinds = ("heatmap", "mask", "overlay")
    write_tree(tmp_path, [f"Tp/Sp/{stem}.jpg", *(f"out/{stem}_{kind}.png" for kind in kinds)])
    listing = read_dataset("casia_v1", tmp_path)
    assert [sample.image.stem for sample in listing.samples] == [stem]
    assert {path.stem.rpartition("_")[2] for path, _ in listing.skipped} == set(kinds)


def test_pictures_of_one_stem_share_their_mask_with_a_note(tmp_path: Path) -> None:
    names = ["Tp/s.jpg", "Tp/s.png", "Tp/t.png", "Gt/s_gt.png", "Gt/t_gt.png"]
    (note,) = read_dataset("folder", write_tree(tmp_path, names)).notes
    assert "of the same stem share its mask: 1 stems, for instance s" in note


@pytest.mark.parametrize(
    ("masks", "used"),
    [
        (["s_gt.jpg", "s_gt.png", "s_gt.tif"], "s_gt.png"),
        (["s_gt.bmp", "s_gt3.PNG"], "s_gt3.PNG"),
        (["s_gt.png", "s_gt2.png"], "s_gt.png"),
        (["s_gt.bmp", "s_gt.jpg"], "s_gt.bmp"),
    ],
)
def test_of_several_masks_of_a_picture_the_first_png_is_used(
    tmp_path: Path, masks: list[str], used: str
) -> None:
    root = write_tree(tmp_path, ["Tp/s.jpg", *(f"Gt/{mask}" for mask in masks)])
    assert pairs(read_dataset("folder", root)) == {"Tp/s.jpg": f"Gt/{used}"}


def test_casia_v2_read_as_v1_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path, ["Au/Au_ani_00001.jpg", "Tp/Tp_D_CND_M_N_ani00018_sec00096_00138.tif"])
    with pytest.raises(UserError, match="use casia_v2"):
        read_dataset("casia_v1", tmp_path)


def test_of_two_folders_that_differ_in_case_one_is_always_taken(tmp_path, monkeypatch) -> None:
    write_tree(tmp_path, ["Au/a.jpg", "Tp/b.jpg", "TP/c.jpg"])
    listed = Path.iterdir
    taken = set()
    for turned in (False, True):  # As another file system would list them.
        monkeypatch.setattr(Path, "iterdir", lambda p, t=turned: iter(sorted(listed(p), reverse=t)))
        taken.add(tuple(pairs(read_dataset("folder", tmp_path))))
    assert len(taken) == 1


def test_columbia(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [
            "4cam_auth/canong3_02_sub_01.tif",
            "4cam_auth/edgemask/canong3_02_sub_01_edgemask.jpg",
            "4cam_splc/canong3_canonxt_sub_01.tif",
            "4cam_splc/nikond70_canonxt_sub_15.tif",
            "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg",
        ],
    )
    listing = read_dataset("columbia", tmp_path)
    assert pairs(listing) == {
        "4cam_auth/canong3_02_sub_01.tif": 0,
        "4cam_splc/canong3_canonxt_sub_01.tif": (
            "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg"
        ),
        "4cam_splc/nikond70_canonxt_sub_15.tif": None,
    }
    assert {s.mask_style for s in listing.samples if s.label} == {"columbia"}
    assert listing.skipped == []


def test_coverage(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        ["image/1.tif", "image/1t.tif", "image/11t.tif", "image/x.tif"]
        + [f"mask/{name}.tif" for name in ("1forged", "1copy", "1paste", "11forged")],
    )
    listing = read_dataset("coverage", tmp_path)
    assert pairs(listing) == {
        "image/1.tif": 0,
        "image/11t.tif": "mask/11forged.tif",
        "image/1t.tif": "mask/1forged.tif",
    }
    assert [path.name for path, _ in listing.skipped] == ["x.tif"]


def test_imd2020(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [
            "1a1ogs/1a1ogs_orig.jpg",
            "1a1ogs/c8tw0l5_0.jpg",
            "1a1ogs/c8tw0l5_0_mask.png",
            "1a1ogs/c8tx3_0.png",
            "1a1ogs/c8tx3_0_mask.png",
            "1a1ogs/stray.jpg",
            ".ipynb_checkpoints/a_orig.jpg",
        ],
    )
    listing = read_dataset("imd2020", tmp_path)
    assert pairs(listing) == {
        "1a1ogs/1a1ogs_orig.jpg": 0,
        "1a1ogs/c8tw0l5_0.jpg": "1a1ogs/c8tw0l5_0_mask.png",
        "1a1ogs/c8tx3_0.png": "1a1ogs/c8tx3_0_mask.png",
    }
    assert {s.mask_style for s in listing.samples if s.label} == {"nonzero"}
    assert [path.name for path, _ in listing.skipped] == ["stray.jpg"]


NIST_HEADER = "TaskID|ProbeFileID|ProbeFileName|IsTarget|ProbeMaskFileName|BaseFileName\n"


def _nist(root: Path, rows: list[str], header: str = NIST_HEADER) -> Path:
    write_tree(root, ["probe/NC2016_1.jpg", "probe/NC2016_2.jpg", "reference/m/NC2016_1_gt.png"])
    table = root / "reference/manipulation/NC2016-manipulation-ref.csv"
    table.parent.mkdir(parents=True)
    table.write_text(header + "".join(row + "\n" for row in rows))
    return root


def test_nist16_takes_targets_of_its_table_with_black_masks(tmp_path: Path) -> None:
    target = "manipulation|1|probe/NC2016_1.jpg|Y|reference/m/NC2016_1_gt.png|world/a.jpg"
    root = _nist(
        tmp_path,
        [target, "manipulation|2|probe/NC2016_2.jpg|N||", target, "m|3|probe/gone.jpg|Y|x.png|"],
    )
    listing = read_dataset("nist16", root)
    assert pairs(listing) == {"probe/NC2016_1.jpg": "reference/m/NC2016_1_gt.png"}
    assert listing.samples[0].mask_style == "black"
    assert [why for _, why in listing.skipped] == [
        "listed a second time in the reference table",
        "in the reference table, but there is no such file",
    ]
    assert "1 rows of authentic" in listing.notes[0]


def test_nist16_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column IsTarget, ProbeFileName"):
        read_dataset("nist16", _nist(tmp_path, ["1,2"], header="TaskID,ProbeFileID\n"))


def test_dso1_masks_are_black_where_tampered(tmp_path: Path) -> None:
    for number, name in enumerate(("normal-01", "splicing-01", "other")):
        write_random(tmp_path / f"DSO-1/{name}.png", number, (70, 80))
    mask = np.full((70, 80), 255, np.uint8)
    mask[10:20] = 0
    write_picture(tmp_path / "DSO-1-Fake-Images-Masks/splicing-01.png", mask)
    write_tree(tmp_path, ["DSI-1/splicing-02.png"])
    listing = read_dataset("dso1", tmp_path)
    assert pairs(listing) == {
        "DSO-1/normal-01.png": 0,
        "DSO-1/splicing-01.png": "DSO-1-Fake-Images-Masks/splicing-01.png",
    }
    assert [path.name for path, _ in listing.skipped] == ["other.png"]
    loaded = load_sample(listing.samples[1])
    assert loaded.mask is not None and loaded.mask[15, 0] == 255 and loaded.mask.mean() < 40
    found = diagnose(listing, examine(listing))
    assert [finding.what for finding in found] == [
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
        "real/dining table_114871.png": 0,
        "real/cat_7.png": 0,
        "fake/glide_inpainting_val2017_114871_up.png": "mask/dining table_114871_mask.png",
        "fake/glide_inpainting_val2017_8_up.png": None,
    }
    assert {s.sources for s in listing.samples if "114871" in s.name} == {("114871",)}


def test_cocoglide_takes_no_mask_where_two_have_the_number(tmp_path: Path) -> None:
    masks = ["mask/cat_7_mask.png", "mask/dog_7_mask.png", "mask/cat_8_mask.png"]
    fakes = [f"fake/glide_inpainting_val2017_{number}_up.png" for number in (7, 8)]
    listing = read_dataset("cocoglide", write_tree(tmp_path, [*fakes, *masks]))
    assert pairs(listing) == {fakes[0]: None, fakes[1]: "mask/cat_8_mask.png"}


def test_autosplice_shares_masks_between_edits_and_reads_one_compression(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [f"Forged_JPEG{quality}/39406_{k}.jpg" for quality in (100, 90, 75) for k in (0, 1)]
        + ["Authentic/39406.jpg", "Forged_JPEG100/5.jpg", "Mask/39406_mask.png", "Mask/5_mask.png"],
    )
    listing = read_dataset("autosplice", tmp_path)
    assert pairs(listing) == {
        "Authentic/39406.jpg": 0,
        "Forged_JPEG100/39406_0.jpg": "Mask/39406_mask.png",
        "Forged_JPEG100/39406_1.jpg": "Mask/39406_mask.png",
        "Forged_JPEG100/5.jpg": "Mask/5_mask.png",
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


@pytest.mark.parametrize(
    "name",
    ["casia_v1", "columbia", "coverage", "imd2020", "nist16"]
    + ["dso1", "cocoglide", "autosplice", "openforensics", "comofod"],
)
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, ["pictures/a.jpg"])
    with pytest.raises(UserError, match=f"{tmp_path}.*(expected|no CASIA v1.0 picture|not NIST16)"):
        read_dataset(name, tmp_path)


LAYOUTS = {
    "folder": ["Au/a.jpg", "Tp/b.jpg", "Gt/b_gt.png"],
    "casia_v1": [
        "Au/Au_ani_0001.jpg",
        "Tp/Sp_D_CND_A_pla0005_pla0023_0281.jpg",
        "Sp/Sp_D_CND_A_pla0005_pla0023_0281_gt.png",
    ],
    "columbia": ["4cam_auth/a.tif", "4cam_splc/b.tif", "4cam_splc/edgemask/b_edgemask.jpg"],
    "coverage": ["image/1.tif", "image/1t.tif", "mask/1forged.tif"],
    "imd2020": ["1a/1a_orig.jpg", "1a/x.jpg", "1a/x_mask.png"],
    "dso1": [
        "DSO-1/normal-01.png",
        "DSO-1/splicing-01.png",
        "DSO-1-Fake-Images-Masks/splicing-01.png",
    ],
    "cocoglide": ["real/cat_7.png", "fake/glide_val2017_7_up.png", "mask/cat_7_mask.png"],
    "autosplice": ["Authentic/7.jpg", "Forged_JPEG100/7_0.jpg", "Mask/7_mask.png"],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_and_files_behind_links_are_read_and_loops_end(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "plain", LAYOUTS[name])
    root = tmp_path / "linked"
    root.mkdir()
    for folder in (tmp_path / "plain").iterdir():
        (root / folder.name).symlink_to(folder)
        for file in [path for path in folder.iterdir() if path.is_file()]:
            stored = file.rename(tmp_path / f"stored_{folder.name}_{file.name}")
            file.symlink_to(stored)
        (folder / "again").symlink_to(root)
    (root / "loop").symlink_to(root)
    listing = read_dataset(name, root)
    authentic, tampered, mask = LAYOUTS[name]
    assert pairs(listing) == {authentic: 0, tampered: mask}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coverage", ["image/1.tif", "image/1t.tif", "mask/1forged.tif"]),
        ("imd2020", ["abc/abc_orig.jpg", "abc/x.png", "abc/x_mask.png"]),
        ("comofod", ["001_O.png", "001_F.png", "001_B.png"]),
        ("autosplice", ["Authentic/7.jpg", "Forged_JPEG100/7_12.jpg", "Mask/7_mask.png"]),
    ],
)
def test_a_picture_and_its_forgery_share_their_source(
    tmp_path: Path, name: str, files: list[str]
) -> None:
    first, second = read_dataset(name, write_tree(tmp_path, files)).samples
    assert first.sources == second.sources != ()
    assert {first.label, second.label} == {0, 1} and (first.mask or second.mask)


def test_a_mask_of_an_edits_own_is_preferred_to_that_of_its_picture(tmp_path: Path) -> None:
    files = ["Authentic/7.jpg", "Forged_JPEG100/7_1.jpg", "Mask/7_mask.png", "Mask/7_1_mask.png"]
    masks = pairs(read_dataset("autosplice", write_tree(tmp_path, files)))
    assert masks["Forged_JPEG100/7_1.jpg"] == "Mask/7_1_mask.png"
