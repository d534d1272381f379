"""Unusual pictures are described, and still read as 8-bit RGB."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import decode_image, oddities

RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 1 << 16, (8, 12), np.uint16)
RGB = RNG.integers(0, 256, (8, 12, 3), np.uint8)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(Image.fromarray(RGB), "JPEG", exif=exif)


def _colour_of_16_bits(suffix: str) -> bytes:
    return cv2.imencode(suffix, RNG.integers(0, 1 << 16, (8, 12, 3), np.uint16))[1].tobytes()


def _animation(kind: str) -> bytes:
    more = [Image.fromarray(RGB[::-1])]
    return _encoded(Image.fromarray(RGB), kind, save_all=True, append_images=more)


CASES = {
    "16-bit grey": lambda: _encoded(Image.fromarray(GREY16), "PNG"),
    "16-bit colour": lambda: _colour_of_16_bits(".png"),
    "16-bit colour, scaled": lambda: _colour_of_16_bits(".tif"),
    "grey": lambda: _encoded(Image.fromarray(RGB[..., 0]), "JPEG"),
    "palette": lambda: _encoded(Image.fromarray(RGB).quantize(16), "PNG"),
    "CMYK": lambda: _encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "alpha": lambda: _encoded(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "EXIF orientation 6": _rotated,
    "transparency": lambda: _encoded(Image.fromarray(RGB).quantize(16), "PNG", transparency=0),
    "an animation": lambda: _animation("PNG"),
    "an animation: only its first frame": lambda: _animation("WEBP"),
}


@pytest.mark.parametrize("kind", CASES)
def test_an_unusual_picture_is_named_and_read(kind: str) -> None:
    data = CASES[kind]()
    assert any(kind in text for text in oddities(data))
    image = decode_image(data, kind)
    assert image.shape == (8, 12, 3) and image.dtype == np.uint8


def test_a_plain_picture_has_nothing_to_tell() -> None:
    assert oddities(_encoded(Image.fromarray(RGB), "PNG")) == []
    assert oddities(_encoded(Image.fromarray(RGB), "JPEG")) == []


def test_what_is_no_picture_is_left_to_the_reader() -> None:
    assert oddities(b"text") == []
