"""List files of MVSS-Net and IMDL-BenCo: labels, missing files, paths with spaces."""

import json
from pathlib import Path

import pytest

from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path, ["au/1.jpg", "tp/my picture.jpg", "tp/2.png", "gt/2 gt.png"])


def test_mvss_lines_give_pictures_masks_and_labels(root: Path) -> None:
    path = root / "list.txt"
    path.write_text(
        "\ufeff./au/1.jpg None 0\n"  # as Windows' editors begin a file
        "./tp/2.png ./gt/2 gt.png 3\n"
        "./tp/my picture.jpg None 1\n"
        "./tp/missing.jpg None 1\n"
        "./tp/2.png\n"
        "\n"
    )
    listing = read_dataset("mvss_txt", path)
    found = [(s.name, s.label, s.mask and s.mask.name) for s in listing.samples]
    assert found == [
        ("au/1.jpg", 0, None),
        ("tp/2.png", 1, "2 gt.png"),
        ("tp/my picture.jpg", 1, None),
    ]
    assert [why.split(":")[0] for _, why in listing.skipped] == [
        "in the list, but there is no such file",
        "line 5 is not `image mask label`",
    ]


def test_a_list_may_lie_in_a_folder_beside_the_pictures(root: Path) -> None:
    lists = root / "lists"
    lists.mkdir()
    (lists / "set.txt").write_text("au/1.jpg None 0\n")
    assert read_dataset("mvss_txt", lists / "set.txt").samples[0].image.is_file()


def test_a_mask_that_is_not_there_is_noted_and_the_picture_stays(root: Path) -> None:
    path = root / "list.txt"
    path.write_text("tp/2.png gt/none.png 1\n")
    listing = read_dataset("mvss_txt", path)
    assert listing.samples[0].mask is None and "gt/none.png" in listing.notes[0]


def test_casia_v1plus_finds_its_list_in_the_folder(root: Path) -> None:
    (root / "CASIAv1plus.txt").write_text("./au/1.jpg None 0\n")
    listing = read_dataset("casia_v1plus", root)
    assert (listing.name, len(listing.samples)) == ("casia_v1plus", 1)


def test_benco_json_marks_authentic_pictures_negative(root: Path) -> None:
    path = root / "list.json"
    rows = [["./tp/2.png", "./gt/2 gt.png"], [str(root / "au/1.jpg"), "Negative"], ["x.jpg", "y"]]
    path.write_text(json.dumps(rows))
    listing = read_dataset("benco_json", path)
    assert {s.image.name: (s.label, s.mask is not None) for s in listing.samples} == {
        "1.jpg": (0, False),
        "2.png": (1, True),
    }
    assert len(listing.skipped) == 1


def test_only_the_exact_word_negative_marks_an_authentic_picture(root: Path) -> None:
    path = root / "list.json"
    path.write_text(json.dumps([["au/1.jpg", "negative"], ["tp/2.png", "NEGATIVE"]]))
    listing = read_dataset("benco_json", path)
    assert [(sample.label, sample.mask) for sample in listing.samples] == [(1, None), (1, None)]
    assert [note.split(": ")[1].split()[2] for note in listing.notes] == ["negative", "NEGATIVE"]


@pytest.mark.parametrize("dataset", ["mvss_txt", "benco_json"])
def test_masks_of_columbia_in_a_list_are_read_in_its_style(tmp_path: Path, dataset: str) -> None:
    rows = [["a.tif", "edgemask/a_edgemask.jpg"], ["b.tif", "edgemask_b.png"]]
    write_tree(tmp_path, [name for row in rows for name in row])
    path = tmp_path / "list"
    as_lines = "".join(f"{image} {mask} 1\n" for image, mask in rows)
    path.write_text(as_lines if dataset == "mvss_txt" else json.dumps(rows))
    samples = read_dataset(dataset, path).samples
    assert [sample.mask_style for sample in samples] == ["columbia", "white"]
    assert all(sample.mask for sample in samples)


@pytest.mark.parametrize("text", ["{}", '[["a"]]', "[1, 2]", "not json"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match="list.json"):
        read_dataset("benco_json", path)


@pytest.mark.parametrize("name", ["mvss_txt", "benco_json", "casia_v1plus"])
def test_a_list_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no list at"):
        read_dataset(name, tmp_path / "none.txt")


def test_a_list_of_missing_pictures_says_where_they_were_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("gone.jpg None 0\n")
    with pytest.raises(UserError, match="gone.jpg; relative paths are looked for"):
        read_dataset("mvss_txt", path)
    path.write_text("Au/a.jpg,None,Au/a.jpg\n")  # CAT-Net's form
    with pytest.raises(UserError, match="for instance line 1 is not `image mask label`"):
        read_dataset("mvss_txt", path)
