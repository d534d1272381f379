"""Reading a picture that may be anything: limits, animations, pages."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import UnreadableImage, read_bytes
from sapl_jax.inference.reading import MAX_BYTES, decode
from tests.inference import hostile


def test_a_bomb_is_refused_before_it_is_decoded():
    start = time.perf_counter()
    with pytest.raises(UnreadableImage, match="20000 x 10000 pixels, more than"):
        decode(hostile.bomb(), "bomb.png")
    assert time.perf_counter() - start < 5  # Building the file takes most of it.


def test_a_limit_of_pixels_is_of_the_caller():
    data = hostile.png(16, 8)
    assert decode(data, "small.png", max_pixels=128).rgb.shape == (8, 16, 3)
    with pytest.raises(UnreadableImage, match="16 x 8 pixels, more than the limit of 127"):
        decode(data, "small.png", max_pixels=127)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (hostile.animated("PNG"), "PNG of 3 frames"),
        (hostile.animated("PNG", 2), "PNG of 2 frames"),
        # Says that it has three frames, and holds the one that other viewers show.
        (hostile.png(16, 16, (b"acTL", struct.pack(">II", 3, 0))), "PNG of 3 frames"),
        (hostile.animated("WEBP"), "WEBP of 3 frames"),
        (hostile.animated("WEBP", 2), "WEBP of 2 frames"),
        (hostile.animated("GIF"), "GIF"),
    ],
)
def test_animations_are_refused_by_name(data, kind):
    with pytest.raises(UnreadableImage, match=f"an animation.*{kind}"):
        decode(data, "moving")


def test_a_still_png_is_no_animation():
    assert decode(hostile.png(16, 8), "still.png").rgb.shape == (8, 16, 3)
    one_frame = hostile.png(16, 8, (b"acTL", struct.pack(">II", 1, 0)))
    assert decode(one_frame, "still.png").rgb.shape == (8, 16, 3)


def test_of_a_tiff_of_several_pages_the_first_is_read_with_a_note():
    pages = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 200)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    read = decode(file.getvalue(), "pages.tif")
    assert np.unique(read.rgb).tolist() == [0, 10]
    assert any("several pages" in note for note in read.notes)


@pytest.mark.parametrize(("width", "noted"), [(63, True), (64, False)])
def test_of_a_picture_under_64_pixels_is_noted_that_it_tells_nothing(width, noted):
    notes = decode(hostile.png(width, 80), "small.png").notes
    assert any("a side under 64 pixels" in note for note in notes) == noted


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" * 9])
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match="x.png"):
        decode(read_bytes(path, MAX_BYTES), path)


def test_a_file_over_the_byte_limit_is_not_read_whole(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(50 << 30)  # sparse: takes no disk
    with pytest.raises(UnreadableImage, match="too large"):
        read_bytes(path, max_bytes=1 << 20)
