"""Each test set's exact layout gives the right labels, masks and skipped files."""

from pathlib import Path

import pytest

from data_pipelines.readers import Listing, read_dataset
from sapl_jax.errors import UserError
from tests.data_pipelines.trees import write_tree


def _labels(listing: Listing) -> dict[str, int]:
    return {sample.name: sample.label for sample in listing.samples}


def _masks(listing: Listing) -> dict[str, str | None]:
    root = listing.root
    return {
        sample.name: sample.mask.relative_to(root).as_posix() if sample.mask else None
        for sample in listing.samples
        if sample.label == 1
    }


def test_casia_v1_in_its_published_folders(tmp_path: Path) -> None:
    tree = "CASIA 1.0 dataset/Modified Tp/Tp"
    truth = "CASIA 1.0 groundtruth"
    write_tree(
        tmp_path,
        [
            "CASIA 1.0 dataset/Au/Au_ani_0001.jpg",
            f"{tree}/CM/Sp_S_NNN_A_ani0042_ani0042_0010.jpg",
            f"{tree}/Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg",
            f"{tree}/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg",
            f"{truth}/CM/Sp_S_NNN_A_ani0042_ani0042_0010_gt.png",
            f"{truth}/Sp/Sp_D_CND_A_pla0005_pla0023_0281_gt.png",
        ],
    )
    listing = read_dataset("casia_v1", tmp_path)
    assert sorted(_labels(listing).values()) == [0, 1, 1]
    assert _masks(listing) == {
        f"{tree}/CM/Sp_S_NNN_A_ani0042_ani0042_0010.jpg": (
            f"{truth}/CM/Sp_S_NNN_A_ani0042_ani0042_0010_gt.png"
        ),
        f"{tree}/Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg": (
            f"{truth}/Sp/Sp_D_CND_A_pla0005_pla0023_0281_gt.png"
        ),
    }
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
    assert _masks(listing) == {
        "Modified Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg": None,
        "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268.jpg": "Sp/Sp_D_CNN_A_art0024_ani0032.v2_0268_gt.png",
    }
    assert [why.split(" /")[0] for _, why in listing.skipped] == ["the same name as"]


def test_casia_v2_read_as_v1_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path, ["Au/Au_ani_00001.jpg", "Tp/Tp_D_CND_M_N_ani00018_sec00096_00138.tif"])
    with pytest.raises(UserError, match="use casia_v2"):
        read_dataset("casia_v1", tmp_path)


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
    assert _labels(listing) == {
        "4cam_auth/canong3_02_sub_01.tif": 0,
        "4cam_splc/canong3_canonxt_sub_01.tif": 1,
        "4cam_splc/nikond70_canonxt_sub_15.tif": 1,
    }
    assert _masks(listing) == {
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
    assert _labels(listing) == {"image/1.tif": 0, "image/11t.tif": 1, "image/1t.tif": 1}
    assert _masks(listing) == {
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
        ],
    )
    listing = read_dataset("imd2020", tmp_path)
    assert _labels(listing) == {
        "1a1ogs/1a1ogs_orig.jpg": 0,
        "1a1ogs/c8tw0l5_0.jpg": 1,
        "1a1ogs/c8tx3_0.png": 1,
    }
    assert _masks(listing)["1a1ogs/c8tx3_0.png"] == "1a1ogs/c8tx3_0_mask.png"
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
    assert _masks(listing) == {"probe/NC2016_1.jpg": "reference/m/NC2016_1_gt.png"}
    assert listing.samples[0].mask_style == "black"
    assert [why for _, why in listing.skipped] == [
        "listed a second time in the reference table",
        "in the reference table, but there is no such file",
    ]
    assert "1 rows of authentic" in listing.notes[0]


def test_nist16_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column IsTarget, ProbeFileName"):
        read_dataset("nist16", _nist(tmp_path, ["1,2"], header="TaskID,ProbeFileID\n"))


@pytest.mark.parametrize("name", ["casia_v1", "columbia", "coverage", "imd2020", "nist16"])
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, ["pictures/a.jpg"])
    with pytest.raises(UserError, match=str(tmp_path)):
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
    assert _labels(listing) == {LAYOUTS[name][0]: 0, LAYOUTS[name][1]: 1}
    assert list(_masks(listing).values()) == LAYOUTS[name][2:]
