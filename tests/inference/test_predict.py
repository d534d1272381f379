"""The run and the command: results, resuming, names, and everything bad that must not stop it."""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from sapl_jax import predict as command
from sapl_jax.errors import UserError
from sapl_jax.inference import opening, predicting
from sapl_jax.inference.inputs import find_pictures
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.output_folder import ENDINGS, OutputFolder, safe_stem
from sapl_jax.inference.predicting import predict, render
from sapl_jax.inference.reading import Picture
from tests.inference import hostile
from tests.inference.hostile import picture, write
from tests.small_files import largest_file

SETTINGS = {"threshold": 0.5, "model_sha256": "abc"}


class Found(NamedTuple):
    score: float
    heat_map: np.ndarray


class RedShare:
    """A detector: the heat map is the red channel, the score its mean. Counts its pictures."""

    def __init__(self):
        self.seen = 0

    def analyse(self, images):
        self.seen += len(images)
        maps = [image[..., 0].astype(np.float32) / 255 for image in images]
        return [Found(float(m.mean()), m) for m in maps]


def run(paths, out, detector=None, settings=SETTINGS, **limits):
    detector = detector or RedShare()
    pictures = find_pictures([str(path) for path in paths], leave_out=out).pictures
    with OutputFolder.open(out, settings) as output:
        return predict(detector, pictures, output, 0.5, **limits)


def records(out):
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_files_are_turned_by_viewers_as_their_picture_is(tmp_path):
    rgb, exif = picture(20, 30), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "one.png", exif=exif)
    out = tmp_path / "out"
    run([tmp_path / "one.png"], out)
    for ending in ("heatmap", "mask", "overlay"):
        with Image.open(out / f"one_{ending}.png") as file:
            assert file.getexif()[0x0112] == 6 and file.size == (30, 20)
    np.testing.assert_array_equal(Image.open(out / "one_heatmap.png"), rgb[..., 0])
    (record,) = records(out)
    assert (record["height"], record["width"]) == (20, 30)


def test_each_picture_gets_its_files_and_its_line(tmp_path):
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[5:15, 10:25, 0] = 255
    path = write(tmp_path / "in" / "one.png", rgb)
    out = tmp_path / "out"
    summary = run([path], out)
    assert (summary.analysed, summary.tampered, summary.skipped) == (1, 0, [])
    heat_map = cv2.imread(str(out / "one_heatmap.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(out / "one_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(heat_map, rgb[..., 0])
    np.testing.assert_array_equal(mask, rgb[..., 0])
    assert cv2.imread(str(out / "one_overlay.png")).shape == (20, 30, 3)
    (record,) = records(out)
    assert record["path"] == str(path) and len(record["sha256"]) == 64
    assert record["score"] == pytest.approx(0.25) and record["verdict"] == "authentic"
    assert record["tampered_fraction"] == pytest.approx(0.25)
    assert record["regions"] == [{"x": 10, "y": 5, "width": 15, "height": 10, "pixels": 150}]
    assert record["threshold"] == 0.5 and record["model_sha256"] == "abc"


def test_it_continues_where_it_stopped(tmp_path):
    for i in range(5):
        write(tmp_path / "in" / f"{i}.png", picture(seed=i))
    out, folder = tmp_path / "out", tmp_path / "in"
    run([folder / "0.png", folder / "1.png"], out)
    # As if killed: picture 2 was written without its line, picture 3's line is torn.
    detector = RedShare()
    run([folder / "2.png"], tmp_path / "other")
    for name in ("heatmap", "mask"):
        (out / f"2_{name}.png").write_bytes((tmp_path / "other" / f"2_{name}.png").read_bytes())
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"path": "/3.png", "sha')
    summary = run([folder], out, detector)
    assert (detector.seen, summary.analysed, summary.already_there) == (3, 3, 2)
    assert [record["files"]["mask"] for record in records(out)] == [
        f"{i}_mask.png" for i in range(5)
    ]
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.glob("*.png"))
    assert run([folder], out).already_there == 5
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.glob("*.png")) == before


def test_removed_pictures_come_back_under_their_names(tmp_path):
    path = write(tmp_path / "in" / "a.png", picture())
    out = tmp_path / "out"
    run([path], out)
    (out / "a_mask.png").unlink()
    run([path], out)
    assert (out / "a_mask.png").exists() and len(records(out)) == 1
    assert len(list(out.glob("*.png"))) == 3


def test_equal_stems_get_names_of_their_own(tmp_path):
    for i, name in enumerate(("x/a.png", "y/a.png", "y/a.jpg", "y/A.png")):
        write(tmp_path / "in" / name, picture(seed=i))
    out = tmp_path / "out"
    run([tmp_path / "in"], out)
    stems = [record["files"]["mask"].removesuffix("_mask.png") for record in records(out)]
    assert len({stem.casefold() for stem in stems}) == 4
    assert sum(stem.casefold() == "a" for stem in stems) == 1
    assert all(stem.casefold().startswith("a") for stem in stems)
    for record in records(out):
        shown = cv2.imread(str(out / record["files"]["heatmap"]), cv2.IMREAD_UNCHANGED)
        expected = cv2.imread(record["path"])[..., 2]
        np.testing.assert_array_equal(shown, expected)


def test_files_of_others_in_the_output_stay(tmp_path):
    path = write(tmp_path / "in" / "a.png", picture())
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_mask.png").write_text("mine")
    target = tmp_path / "target"
    target.write_text("far away")
    (out / "a_overlay.png").symlink_to(target)
    run([path], out)
    assert (out / "a_mask.png").read_text() == "mine" and target.read_text() == "far away"
    (record,) = records(out)
    assert record["files"]["mask"].startswith("a-")


def test_bad_files_never_end_the_run(tmp_path):
    folder = tmp_path / "in"
    write(folder / "good.png", picture())
    for name, data in {
        "text.png": b"hello",
        "empty.jpg": b"",
        "bomb.png": hostile.bomb(),
        "moving.png": hostile.animated("PNG"),
        "moving.webp": hostile.animated("WEBP"),
        "half.png": hostile.png(64, 64)[:40],
    }.items():
        (folder / name).write_bytes(data)
    summary = run([folder], tmp_path / "out", batch_size=2)
    assert summary.analysed == 1
    reasons = {path.name: reason for path, reason in summary.skipped}
    assert "not a JPEG" in reasons["text.png"] and "empty" in reasons["empty.jpg"]
    assert "20000 x 10000" in reasons["bomb.png"]
    assert "animation" in reasons["moving.png"] and "animation" in reasons["moving.webp"]
    assert "truncated" in reasons["half.png"]


def test_a_picture_the_model_fails_on_is_skipped(tmp_path):
    class Broken(RedShare):
        def analyse(self, images):
            return [Found(float("nan"), m) for _, m in super().analyse(images)]

    path = write(tmp_path / "in" / "a.png", picture())
    summary = run([path], tmp_path / "out", Broken())
    assert summary.analysed == 0 and "not finite" in summary.skipped[0][1]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        (b"plain.png", "plain"),
        (b"..\\..\\etc\\passwd.png", "_.._.._etc_passwd"),
        (b"-rf.png", "_-rf"),
        (b"\x1b[31mred\n.png", "_[31mred_"),
        (b"\xff\xfe.png", "\ufffd\ufffd"),
        (b"   .png", "_"),
    ],
)
def test_tricks_in_names_do_no_harm(tmp_path, name, stem):
    path = write(tmp_path / "in" / os.fsdecode(name), picture())
    out = tmp_path / "out"
    run([path], out)
    (record,) = records(out)
    assert os.fsencode(record["path"]) == os.fsencode(path)
    for file in record["files"].values():
        assert (out / file).is_file() and "/" not in file and "\\" not in file
    assert all(path.parent == out for path in tmp_path.rglob("*_mask.png"))
    assert safe_stem(path) == stem


def test_very_long_names_fit(tmp_path):
    path = write(tmp_path / "in" / ("é" * 120 + ".png"), picture())
    run([path], tmp_path / "out")
    (record,) = records(tmp_path / "out")
    assert (tmp_path / "out" / record["files"]["overlay"]).is_file()


def test_predictions_of_another_model_are_not_mixed_in(tmp_path):
    path = write(tmp_path / "in" / "a.png", picture())
    out = tmp_path / "out"
    run([path], out)
    before = (out / "predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match="model_sha256: 'abc' there, 'def' now"):
        run([path], out, settings={**SETTINGS, "model_sha256": "def"})
    assert (out / "predictions.jsonl").read_bytes() == before


def test_reports_are_not_added_to_a_folder_made_without_them(tmp_path):
    path = write(tmp_path / "in" / "a.png", picture())
    run([path], tmp_path / "out", settings={**SETTINGS, "report": None})
    with pytest.raises(UserError, match="made otherwise:\n  report: None there, True now"):
        run([path], tmp_path / "out", settings={**SETTINGS, "report": True})


def test_a_predictions_file_of_something_else_is_left_alone(tmp_path):
    path = write(tmp_path / "in" / "a.png", picture())
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.jsonl").write_text('{"question": 1}\n')
    with pytest.raises(UserError, match="line 1 is not a prediction"):
        run([path], out)
    assert (out / "predictions.jsonl").read_text() == '{"question": 1}\n'


def test_two_runs_do_not_share_an_output(tmp_path):
    with (
        OutputFolder.open(tmp_path / "out", SETTINGS),
        pytest.raises(UserError, match="Another run"),
        OutputFolder.open(tmp_path / "out", SETTINGS),
    ):
        pass


def test_an_output_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    path = write(tmp_path / "in" / "a.png", picture())
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"):
            run([path], out)


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    from sapl_jax.inference import output_folder as module

    first = write(tmp_path / "in" / "a.png", picture())
    second = write(tmp_path / "in" / "b.png", picture(seed=1))
    original = module.write_atomically

    def full(path, data):
        if path.name.startswith("b"):
            raise OSError(28, "No space left on device")
        original(path, data)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(UserError, match="No space left.*same command to continue"):
        run([first, second], tmp_path / "out")
    monkeypatch.undo()
    assert run([first, second], tmp_path / "out").already_there == 1
    third = write(tmp_path / "in" / "c.png", picture(seed=2))
    size = (tmp_path / "out" / "predictions.jsonl").stat().st_size
    monkeypatch.setattr(module, "write_atomically", lambda *_: None)
    with largest_file(size + 9), pytest.raises(UserError, match=r"File too large.*same command"):
        run([first, second, third], tmp_path / "out")  # The line of the record does not fit.


def predict_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return command.main()


def test_the_command_predicts_with_a_checkpoint(tmp_path, trained_run, monkeypatch, capsys):
    paths = [write(tmp_path / "in" / f"{i}.png", picture(seed=i)) for i in range(2)]
    (tmp_path / "in" / "bad\x1b[2J.png").write_bytes(b"no picture")
    out = tmp_path / "in" / "out"
    arguments = ("--checkpoint", trained_run, "--output", out, tmp_path / "in")
    assert predict_command(monkeypatch, *arguments) == 1
    shown = capsys.readouterr()
    assert "2 analysed" in shown.out and "\x1b[2J" not in shown.err
    result = Localizer.load(trained_run)(cv2.cvtColor(cv2.imread(str(paths[0])), cv2.COLOR_BGR2RGB))
    assert records(out)[0]["score"] == pytest.approx(result.score, abs=1e-5)
    (skipped,) = (out / "skipped.jsonl").read_text().splitlines()
    assert "not a JPEG" in json.loads(skipped)["reason"]
    assert predict_command(monkeypatch, *arguments) == 1
    assert "0 analysed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag",
    [
        "--threshold=1.5",
        "--batch-size=0",
        "--max-megapixels=-1",
        "--tile=8",
        "--tile-overlap=.95",
        "--tile-overlap=-.1",
    ],
)
def test_numbers_that_cannot_work_are_refused(tmp_path, monkeypatch, flag):
    with pytest.raises(UserError, match=flag.split("=")[0].replace("_", "-")):
        predict_command(monkeypatch, "--output", tmp_path / "out", flag, tmp_path)


def test_the_packages_model_says_what_it_is_worth(tmp_path, monkeypatch, caplog):
    write(tmp_path / "in" / "a.png", picture())
    arguments = ("--output", tmp_path / "out", tmp_path / "in")
    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "absent")
    with pytest.raises(UserError, match="no folder .*absent"):
        predict_command(monkeypatch, *arguments)
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        assert predict_command(monkeypatch, *arguments) == 0
    assert "package's small model for photographs" in caplog.text


def test_a_users_mistake_is_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-m", "sapl_jax.predict", "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, str(tmp_path / "no*")], capture_output=True, timeout=120)
    assert done.returncode == 2
    assert b"No pictures were found" in done.stderr and b"Traceback" not in done.stderr


def test_a_line_is_on_disk_as_soon_as_its_picture_is_done(tmp_path):
    with OutputFolder.open(tmp_path, SETTINGS) as output:
        for name in "ab":  # A run killed after either has its line.
            output.add(tmp_path / f"{name}.png", dict.fromkeys(ENDINGS, b""), {"sha256": name})
            assert records(tmp_path)[-1]["sha256"] == name


def test_skipped_files_are_those_of_the_last_run(tmp_path):
    with OutputFolder.open(tmp_path, SETTINGS) as output:
        output.write_skipped([(tmp_path / "a.png", "torn")])
        assert json.loads((tmp_path / "skipped.jsonl").read_text())["reason"] == "torn"
        output.write_skipped([])
    assert not (tmp_path / "skipped.jsonl").exists()


def test_a_record_has_the_pictures_size_its_notes_and_what_is_above_the_threshold():
    heat_map = np.zeros((20, 30), np.float32)
    heat_map[:5], heat_map[5:10] = 0.75, 0.5  # 0.5 is not above
    seen = Picture(picture(20, 30), "abc", ("16-bit",))
    files, record = render(seen, Found(0.7, heat_map), 0.5, None)
    assert (record["height"], record["width"], record["notes"]) == (20, 30, ["16-bit"])
    assert record["tampered_fraction"] == 0.25 and record["probability"] is None
    mask = cv2.imdecode(np.frombuffer(files["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask > 0, heat_map > 0.6)


def test_limits_of_pixels_reach_pictures_and_batches(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{n}.png", picture(10, 10 + n, n)) for n in range(5)]
    summary = run(paths, tmp_path / "few", max_pixels=120)
    assert summary.analysed == 3 and "13 x 10" in summary.skipped[0][1]
    monkeypatch.setattr(predicting, "_BATCH_PIXELS", 250)
    batches, detector = [], RedShare()
    monkeypatch.setattr(
        detector, "analyse", lambda them: batches.append(len(them)) or RedShare().analyse(them)
    )
    run(paths, tmp_path / "all", detector)
    assert batches == [2, 2, 1]
