"""What the page computes, without a browser or Gradio."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import read_mask
from sapl_jax import Localizer
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import Calibration
from sapl_jax.serving import analysis
from tests.inference import hostile
from tests.inference.hostile import picture, write


@pytest.fixture(scope="module")
def localizer(trained_run):
    return Localizer.load(trained_run)


def analyse(localizer, path, name="a.png"):
    return analysis.analyse_upload(localizer, path, name, analysis.Limits(1, 1_000_000))


def test_an_upload_gives_all_that_is_drawn(localizer, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "SHOWN_SIDE", 32)
    rgb = picture(40, 64)
    found = analyse(localizer, write(tmp_path / "x.png", rgb), "my <b>name</b>.png")
    result = localizer(rgb)
    assert found.score == pytest.approx(result.score, abs=1e-6)
    assert found.heat_map.shape == (40, 64) and found.shown.shape == (20, 32, 3)
    assert found.edges.shape == (18, 28) and found.edges.max() == 255
    assert found.name == "b_"
    assert analysis.draw(found, 0.5, 0.5).shape == (20, 32, 3)
    np.testing.assert_allclose(found.heat_map / 255, result.heat_map, atol=1 / 255)


def test_the_mask_follows_the_threshold(localizer, tmp_path, monkeypatch):
    found = analyse(localizer, write(tmp_path / "x.png", picture()))
    downloads = analysis.Downloads(tmp_path)
    masks = [read_mask(downloads.mask(found, threshold)) for threshold in (0, 0.5, 1)]
    shares = [(mask == 255).mean() for mask in masks]
    assert shares[0] == 1 and shares[2] == 0 and sorted(shares, reverse=True) == shares
    monkeypatch.setattr(analysis, "_KEPT", 1)
    downloads = analysis.Downloads(tmp_path)
    path = downloads.mask(found, 0.5)
    assert path.name == "a_mask_0.50.png" and path.read_bytes().startswith(b"\x89PNG")
    assert downloads.mask(found, 0.4).exists() and not path.exists()  # old ones are removed


def test_a_picture_that_exif_turns_is_shown_as_viewers_show_it(localizer, tmp_path):
    stored, exif = picture(40, 64), Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.png"
    Image.fromarray(stored).save(path, exif=exif)
    found, plain = analyse(localizer, path), analyse(localizer, write(tmp_path / "x.png", stored))
    assert found.score == plain.score
    for name in ("shown", "shown_map", "edges"):
        turned = np.rot90(getattr(plain, name), -1)  # 6: a quarter turn clockwise
        np.testing.assert_array_equal(getattr(found, name), turned)
    mask = analysis.Downloads(tmp_path).mask(found, 0.5)
    np.testing.assert_array_equal(read_mask(mask) > 0, plain.heat_map > 0.5 * 255)
    assert Image.open(mask).getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a JPEG"),
        (hostile.bomb(), "20000 x 10000 pixels"),
        (hostile.animated("PNG"), "animation"),
        (bytes(2 << 20), "too large"),
    ],
)
def test_files_beyond_the_limits_are_refused(localizer, tmp_path, data, reason):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason):
        analyse(localizer, path)


def test_a_refusal_carries_no_markup():
    text = analysis.message(UserError("<img src=x>*a*\n.png: [no](http://x)"))
    assert "<" not in text and "*" not in text and "](" not in text and "http:" not in text


def test_a_calibration_gives_the_verdict_its_rule_and_a_probability(localizer, tmp_path):
    found = analyse(localizer, write(tmp_path / "x.png", picture()))
    rates = (40, 30, 0.05, found.score + 0.01, 1, found.score - 0.01, 0.01, 0.5)
    fitted = Calibration("m", "these", *rates, temperature=2.0, fitted_on=(40, 30))
    text = analysis.summary(dataclasses.replace(found, calibration=fitted), 0.5)
    assert text.startswith("### Inconclusive: score") and fitted.rule in text
    assert f"calibrated probability {fitted.probability(found.score):.1%}" in text
    assert "calibrated" not in analysis.summary(found, 0.5)
