"""Finding pictures: files, folders, globs, links, and what is not a picture."""

import os

import pytest

from sapl_jax.errors import UserError
from sapl_jax.inference.inputs import find_pictures
from tests.inference.hostile import picture, write


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "b.jpg", "deep/er/c.png", ".hidden.png", ".git/d.png"):
        write(tmp_path / name, picture())
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def names(found):
    return [path.name for path in found.pictures]


def test_a_folder_means_all_pictures_below_it(tree):
    found = find_pictures([str(tree)])
    assert names(found) == ["a.png", "b.jpg", "c.png"]
    assert all(path.is_absolute() for path in found.pictures)
    assert found.others == 1 and found.skipped == []


def test_pictures_that_cannot_be_read_are_named_with_what_to_do(tree):
    (tree / "IMG_1.HEIC").write_bytes(b"x")
    found = find_pictures([str(tree), str(tree / ".." / tree.name)])
    assert names(found) == ["a.png", "b.jpg", "c.png"] and found.others == 2
    ((path, reason),) = found.skipped
    assert path == tree / "IMG_1.HEIC" and "convert it, to PNG or TIFF" in reason


def test_globs_are_resolved_and_files_come_once(tree):
    found = find_pictures([str(tree / "**" / "*.png"), str(tree / "a.png"), str(tree)])
    assert names(found) == ["a.png", "c.png", "b.jpg"]


def test_a_file_with_glob_characters_is_itself(tree):
    write(tree / "x[1].png", picture())
    assert names(find_pictures([str(tree / "x[1].png")])) == ["x[1].png"]


def test_loops_of_links_end(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    (tree / "p.png").symlink_to(tree / "q.png")
    (tree / "q.png").symlink_to(tree / "p.png")
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    found = find_pictures([str(tree)])
    assert sorted(names(found)) == ["a.png", "b.jpg", "c.png"]
    reasons = {path.name: reason for path, reason in found.skipped}
    assert "symbolic links" in reasons["p.png"] and "symbolic links" in reasons["q.png"]
    assert "No such file" in reasons["gone.png"]


def test_pipes_are_not_opened(tree):
    os.mkfifo(tree / "pipe.png")
    found = find_pictures([str(tree)])
    assert "not a regular file" in dict((p.name, r) for p, r in found.skipped)["pipe.png"]


def test_the_output_folder_inside_the_input_is_left_out(tree):
    write(tree / "out" / "a_overlay.png", picture())
    found = find_pictures([str(tree)], leave_out=tree / "out")
    assert names(found) == ["a.png", "b.jpg", "c.png"]
    pattern = str(tree / "**" / "*.png")
    assert names(find_pictures([pattern], leave_out=tree / "out")) == ["a.png", "c.png"]


def test_an_earlier_output_inside_the_input_is_left_out(tree):
    write(tree / "before" / "a_overlay.png", picture())
    (tree / "before" / "predictions.jsonl").touch()
    write(tree / "before" / "original.png", picture())
    write(tree / "its_mask.png", picture())
    write(tree / "web.jpg", picture()).rename(tree / "web.jfif")
    found = names(find_pictures([str(tree)], leave_out=tree / "out"))
    assert sorted(found) == [
        *("a.png", "b.jpg", "c.png", "its_mask.png", "original.png", "web.jfif")
    ]
    found = names(find_pictures([str(tree / "before")], leave_out=tree / "out"))
    assert sorted(found) == ["a_overlay.png", "original.png"]  # as it was named


def test_what_is_not_there_is_named_and_the_rest_goes_on(tree):
    found = find_pictures([str(tree / "absent.png"), str(tree / "*.tif"), str(tree / "a.png")])
    assert names(found) == ["a.png"]
    assert [path.name for path, _ in found.skipped] == ["absent.png", "*.tif"]


def test_no_picture_at_all_is_an_error(tree):
    with pytest.raises(UserError, match=r"No pictures.*absent"):
        find_pictures([str(tree / "absent")])
