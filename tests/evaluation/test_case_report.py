"""A case report says what was found, on which file, by which model, and how surely."""

import base64
import io
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sapl_jax import predict
from sapl_jax.files import file_sha256
from sapl_jax.inference import calibration, reading
from sapl_jax.inference.localizer import Localizer


def _photograph(path: Path) -> Path:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera <b>1</b>"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.25
    pixels = rng.integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=83, exif=exif)
    return path


def _predict(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return predict.main()


def test_the_page_has_everything_and_loads_nothing(monkeypatch, trained_run, tmp_path) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    path = _photograph(tmp_path / "a&<i>.jpg")
    flags = ("--checkpoint", run, "--report", path, "--output")
    assert _predict(monkeypatch, *flags, tmp_path / "out") == 0
    (file,) = (tmp_path / "out").glob("*_report.html")
    page = file.read_text()
    assert not re.search(r'(src|href)="(?!data:)|<script|url\(|<i>|<b>', page)
    assert page.count("<img") == 5 and page.count("data:image/jpeg") == 2
    assert file_sha256(path) in page and "libjpeg&#x27;s at quality 83" in page
    assert "EXIF Model: Camera &lt;b&gt;1" in page and "EXIF ExposureTime: 0.25" in page
    assert "not calibrated" in page and "best/3" in page and "numpy " in page
    model_sha = re.search(r"checkpoint best/3, SHA-256 ([0-9a-f]{64})", page)
    assert (
        model_sha
        and f"--report --output OUTPUT &#x27;{path}&#x27;".replace("&<i>", "&amp;&lt;i&gt;") in page
    )
    # Again: the same bytes, in the same place; and continued without work.
    assert _predict(monkeypatch, *flags, tmp_path / "again") == 0
    assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    file.unlink()
    assert _predict(monkeypatch, *flags, tmp_path / "out") == 0 and file.read_text() == page

    found = calibration.Calibration(
        Localizer.load(run).source["fingerprint"], "ours", 40, 30, 0.05, 0.0, 39, None, 0.01, 0.25,
        temperature=2.0, fitted_on=(40, 30),
    )  # fmt: skip
    calibration.write(run, found)
    assert _predict(monkeypatch, *flags, tmp_path / "calibrated") == 0
    page = (tmp_path / "calibrated" / file.name).read_text()
    assert "Verdict: tampered" in page and "39 of 40 authentic pictures exceed" in page
    assert "Calibrated probability" in page and "30 of 70 pictures" in page
    assert "not calibrated" not in page and "--which best --threshold 0.25" in page
    tiles = ("--tile", 64, "--tile-overlap", 0.5)
    assert _predict(monkeypatch, *flags, tmp_path / "tiles", *tiles) == 0
    page = (tmp_path / "tiles" / file.name).read_text()
    assert "--tile 64 --tile-overlap 0.5 --report" in page and "larger than 64 pixels in" in page


def test_a_picture_that_exif_turns_stands_upright_on_the_page(
    monkeypatch, trained_run, tmp_path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(0).integers(0, 99, (60, 90, 3), np.uint8)
    pixels[:, :30] = 250  # on the left as stored; at the top as shown
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", quality=95, exif=exif)
    flags = ("--checkpoint", trained_run, "--report", "--output", tmp_path / "out")
    assert _predict(monkeypatch, *flags, tmp_path / "phone.jpg") == 0
    page = (tmp_path / "out" / "phone_report.html").read_text()
    shown = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"data:image/[a-z]+;base64,([^\"]+)", page)
    ]
    assert [picture.size for picture in shown] == [(60, 90)] * 5
    first = np.asarray(shown[0].convert("L"))
    assert first[:25].mean() > 240 and first[35:].mean() < 110
    assert "90 x 60 pixels as stored" in page


def test_a_report_of_the_shipped_model_on_a_png_names_its_editor_and_no_checkpoint(
    monkeypatch, tmp_path
) -> None:
    text = PngInfo()
    text.add_text("Software", "An <i>editor</i>")
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png", pnginfo=text)
    flags = ("--report", tmp_path / "a.png", "--output", tmp_path / "out")
    monkeypatch.setattr(reading, "MAX_PIXELS", 1000)  # so that the picture is a large one
    assert _predict(monkeypatch, *flags) == 0
    (file,) = (tmp_path / "out").glob("*_report.html")
    page = file.read_text()
    assert "sapl_jax.predict --threshold" in page and "--max-megapixels 1 --report" in page
    assert "PNG Software: An &lt;i&gt;editor" in page and "metadata: none" not in page
