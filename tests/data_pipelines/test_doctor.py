"""The doctor finds what is wrong, says how to mend it, and exits with the right status."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import doctor
from data_pipelines.duplicates import identical_groups, without_training_pictures
from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import write_picture, write_random


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number in range(3):
        write_random(root / f"Au/a{number}.png", number, (70, 80))
        write_random(root / f"Tp/t{number}.png", 10 + number, (70, 80))
        mask = np.zeros((70, 80), np.uint8)
        mask[10:20] = 255
        write_picture(root / f"Gt/t{number}_gt.png", mask)
    return root


def _run(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    status = doctor.main()
    return status, capsys.readouterr().out


def _findings(root: Path, **options) -> list[doctor.Finding]:
    listing = read_dataset("folder", root)
    return doctor.diagnose(listing, doctor.examine(listing), **options)


def _only(root: Path, **options) -> doctor.Finding:
    (finding,) = _findings(root, **options)
    return finding


def test_a_healthy_set_is_described_and_passes(healthy, monkeypatch, capsys) -> None:
    status, out = _run(monkeypatch, capsys, "--dataset", "folder", "--root", str(healthy))
    assert status == 0
    assert "3 authentic: 3 .png" in out and "3 with a mask" in out and "median 14.3%" in out
    assert "nothing wrong found" in out


def test_an_unreadable_picture_fails_and_is_named(healthy, monkeypatch, capsys) -> None:
    (healthy / "Au/a0.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    status, out = _run(monkeypatch, capsys, "--dataset", "folder", "--root", str(healthy))
    assert status == 1 and "1 pictures cannot be read" in out and "a0.png" in out


def test_names_cannot_harm_the_terminal_nor_the_encoding(tmp_path) -> None:
    write_random(tmp_path / "Au/Au_ani_0001.jpg", 1, (70, 80))
    for name in (b"Au_ani_0002 \x1b[31m.jpg", b"\xb8\xb4\xbc\xfe Au_ani_0003.jpg"):
        (tmp_path / "Au" / os.fsdecode(name)).write_bytes(b"nonsense")
    command = [sys.executable, "-m", "data_pipelines.doctor", "--dataset", "casia_v1", "--all"]
    done = subprocess.run([*command, "--root", tmp_path], capture_output=True, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert b"\\x1b[31m.jpg" in done.stdout and b"\\udcb8\\udcb4" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_root_of_another_layout_fails(tmp_path, monkeypatch, capsys) -> None:
    status, out = _run(monkeypatch, capsys, "--dataset", "columbia", "--root", str(tmp_path))
    assert status == 1 and "4cam_auth" in out


def test_missing_empty_and_misfitting_masks_are_told_apart(healthy) -> None:
    (healthy / "Gt/t0_gt.png").unlink()
    write_picture(healthy / "Gt/t1_gt.png", np.zeros((70, 80), np.uint8))
    write_picture(healthy / "Gt/t2_gt.png", np.zeros((70, 200), np.uint8))
    whats = [finding.what for finding in _findings(healthy)]
    assert whats == [
        "1 of 3 tampered pictures have no mask",
        "1 masks cannot be used",
        "1 masks have no tampered pixel",
    ]


def test_a_set_without_any_mask_is_not_blamed_for_it(healthy) -> None:
    shutil.rmtree(healthy / "Gt")
    assert _findings(healthy) == []


def test_a_benchmark_without_its_masks_is_told(tmp_path) -> None:
    write_random(tmp_path / "4cam_auth/a.tif", 0, (70, 80))
    write_random(tmp_path / "4cam_splc/b.tif", 1, (70, 80))
    listing = read_dataset("columbia", tmp_path)
    whats = [finding.what for finding in doctor.diagnose(listing, doctor.examine(listing))]
    assert "1 of 1 tampered pictures have no mask" in whats


def test_masks_of_other_names_are_noted(healthy, monkeypatch, capsys) -> None:
    for path in (healthy / "Gt").iterdir():
        path.rename(path.with_name(path.name.replace("_gt", "_mask")))
    _run(monkeypatch, capsys, "--dataset", "folder", "--root", str(healthy))
    (note,) = read_dataset("folder", healthy).notes
    assert "t0_mask.png, where <stem>_gt.png is looked for" in note
    for path in (healthy / "Gt").iterdir():  # The right ending, of no picture there.
        path.rename(path.with_name(path.name.replace("_mask", "x_gt")))
    (note,) = read_dataset("folder", healthy).notes
    assert "t0x_gt.png, where <stem>_gt.png is looked for, of pictures in Tp/" in note


def test_inverted_masks_are_suspected(healthy) -> None:
    for number in range(5):
        write_random(healthy / f"Tp/t{number}.png", 20 + number, (70, 80))
        mask = np.full((70, 80), 255, np.uint8)
        mask[10:20] = 0
        write_picture(healthy / f"Gt/t{number}_gt.png", mask)
    assert "inverted" in _only(healthy).what


def test_one_inverted_mask_among_others_is_told(healthy) -> None:
    mask = np.full((70, 80), 255, np.uint8)
    mask[10:14] = 0
    write_random(healthy / "Tp/t9.png", 29, (70, 80))
    write_picture(healthy / "Gt/t9_gt.png", mask)
    finding = _only(healthy)
    assert finding.what == "1 masks mark over 90 % as tampered" and "t9_gt" in finding.files[0]


def test_one_class_and_small_pictures_are_found(tmp_path) -> None:
    write_random(tmp_path / "Tp/t.png", 0, (12, 400))
    whats = [finding.what for finding in _findings(tmp_path)]
    assert whats == ["no authentic picture", "1 pictures have a side under 64 pixels"]


def test_an_incomplete_copy_of_a_known_set_is_found(tmp_path) -> None:
    write_random(tmp_path / "Au/Au_ani_00001.jpg", 0, (70, 80))
    write_random(tmp_path / "Tp/Tp_D_CND_M_N_ani00018_sec00096_00138.tif", 1, (70, 80))
    listing = read_dataset("casia_v2", tmp_path)
    findings = doctor.diagnose(listing, doctor.examine(listing))
    assert "1 authentic and 1 tampered pictures; a complete copy has 7491 and 5123" in (
        findings[0].what
    )
    assert doctor.formats_tell_the_class(listing)


def test_duplicates_inside_across_classes_and_against_training_are_found(healthy, tmp_path) -> None:
    shutil.copy(healthy / "Au/a0.png", healthy / "Au/copy.png")
    shutil.copy(healthy / "Au/a1.png", healthy / "Tp/t9.png")
    write_picture(healthy / "Gt/t9_gt.png", np.full((70, 80), 200, np.uint8) * (np.arange(80) < 9))
    training = tmp_path / "training"
    shutil.copytree(healthy / "Au", training / "Au")
    against = [("folder", read_dataset("folder", training))]
    whats = [finding.what for finding in _findings(healthy, against=against)]
    assert whats == [
        "1 pictures are both authentic and tampered (same bytes)",
        "1 pictures are there more than once (same bytes)",
        "5 pictures are in folder too (same bytes)",
    ]


def test_training_pictures_can_be_left_out(healthy, tmp_path, monkeypatch, capsys) -> None:
    shutil.copytree(healthy / "Au", tmp_path / "training/Au")
    against = ("--against", f"old:folder={tmp_path / 'training'}")
    given = ("--dataset", "folder", "--root", str(healthy))
    out = _run(monkeypatch, capsys, *given, *against)[1]
    assert "evaluate with --exclude old:folder=PATH" in out
    listing = read_dataset("folder", healthy)
    rest = without_training_pictures(listing, read_dataset("folder", tmp_path / "training"))
    assert [sample.label for sample in rest.samples] == [1, 1, 1]
    assert len(rest.skipped) == 3 and "byte-identical" in rest.skipped[0][1]


def test_files_of_equal_size_and_other_bytes_are_no_duplicates(tmp_path) -> None:
    for name, data in (("a", b"123"), ("b", b"124"), ("c", b"123")):
        (tmp_path / name).write_bytes(data)
    assert identical_groups(tmp_path.iterdir()) == [[tmp_path / "a", tmp_path / "c"]]


def test_a_wrong_against_flag_is_a_usage_error(healthy, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match="--against"):
        _run(
            monkeypatch,
            capsys,
            *("--dataset", "folder", "--root", str(healthy), "--against", "nonsense"),
        )


def test_one_finding_is_enough_for_status_1_and_all_files_are_listed_on_request(
    healthy, monkeypatch, capsys
) -> None:
    for number in range(7):
        (healthy / f"Au/bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n%d" % number)
    flags = ("--dataset", "folder", "--root", str(healthy))
    for more, shown in (((), 5), (("--all",), 7)):
        status, out = _run(monkeypatch, capsys, *flags, *more)
        files = out.partition("1. 7 pictures cannot be read")[2]
        assert status == 1 and files.count("/bad") == shown
        assert ("and 2 more (--all lists them)" in out) == (shown == 5)


def test_unusual_pictures_and_masks_that_get_fitted_are_noted(healthy, monkeypatch, capsys) -> None:
    write_picture(healthy / "Au/grey.png", np.arange(5600, dtype=np.uint8).reshape(70, 80))
    mask = np.zeros((140, 160), np.uint8)  # twice as large as its picture
    mask[20:40] = 255
    write_picture(healthy / "Gt/t0_gt.png", mask)
    _, out = _run(monkeypatch, capsys, "--dataset", "folder", "--root", str(healthy))
    assert "note: 1 pictures: grey" in out and "note: 1 masks are turned or of another size" in out
    assert "sizes: 80x70 to 80x70" in out
