"""Reading pictures: every kind that occurs, and a clear error for what is not a picture."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines.images import (
    UnreadableImage,
    decode_image,
    oddities,
    orientation_of,
    read_header,
    read_image,
    read_mask,
    upright,
)
from tests.data_pipelines.picture_trees import noise

LOSSLESS = [".png", ".bmp", ".tif"]
FORMATS = [*LOSSLESS, ".jpg", ".webp"]


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    """Pixels in OpenCV's channel order as a file's bytes."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_give_the_pixels_in_rgb_order(suffix: str) -> None:
    picture = noise(0)
    found = decode_image(encoded(suffix, picture[..., ::-1]), "picture")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_deep_and_alpha_pictures_become_8_bit_rgb(suffix: str) -> None:
    picture = noise(1)
    grey = np.repeat(picture[..., :1], 3, axis=2)
    alpha = np.dstack([picture, np.full(picture.shape[:2], 9, np.uint8)])
    for pixels, expected in [
        (picture[..., 0], grey),
        (picture.astype(np.uint16) * 257, picture[..., ::-1]),
        (picture[..., 0].astype(np.uint16) * 257, grey),
        (alpha, picture[..., ::-1]),
    ]:
        np.testing.assert_array_equal(decode_image(encoded(suffix, pixels), "picture"), expected)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_with_alpha_has_the_colours_that_are_stored(
    tmp_path: Path, orientation: int
) -> None:
    picture, alpha = noise(1), np.zeros(noise(1).shape[:2], np.uint8)
    alpha[:, 3:] = 128
    path = tmp_path / "alpha.tif"
    Image.fromarray(np.dstack([picture, alpha])).save(path, tiffinfo={0x0112: orientation})
    np.testing.assert_array_equal(decode_image(path.read_bytes(), path), picture)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(read_mask(path), grey)


def test_samples_of_32_bits_are_called_that_and_not_damaged(tmp_path: Path) -> None:
    for kind in (np.int32, np.float32):
        Image.fromarray(np.ones((5, 5), kind)).save(tmp_path / "deep.tif")
        with pytest.raises(UnreadableImage, match="unsupported 32-bit TIFF data"):
            read_image(tmp_path / "deep.tif")
    assert cv2.imwrite(str(tmp_path / "deep.tif"), np.ones((5, 5, 3), np.float32))
    with pytest.raises(UnreadableImage, match="unsupported 32-bit TIFF data"):
        read_image(tmp_path / "deep.tif")


def test_what_is_another_format_is_told_by_its_mark() -> None:
    with pytest.raises(UnreadableImage, match="ftypheic"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "phone.jpg")


def test_palette_png_becomes_rgb() -> None:
    rows = b"".join(b"\x00" + bytes(row) for row in [[0, 1], [2, 1]])
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body)
        for kind, body in [
            (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
    )
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    np.testing.assert_array_equal(decode_image(data, "palette"), expected)


def test_exif_orientation_is_ignored() -> None:
    data = encoded(".jpg", noise(0, 40, 70))
    entry = struct.pack("<HHII", 0x0112, 3, 1, 6)  # orientation 6: turn by 90 degrees
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0\0\0\0"
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (70, 40, 3)
    np.testing.assert_array_equal(decode_image(turned, "turned"), decode_image(data, "straight"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_ignored_too(orientation: int) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(0)).save(file, "TIFF", tiffinfo={0x0112: orientation})
    np.testing.assert_array_equal(decode_image(file.getvalue(), "turned.tif"), noise(0))
    turned = any("orientation" in text for text in oddities(file.getvalue()))
    assert turned == (orientation > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_as_viewers_turn_a_file(orientation: int) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(0)).save(file, "PNG", exif=exif)
    assert orientation_of(file.getvalue()) == orientation
    expected = ImageOps.exif_transpose(Image.open(file))
    np.testing.assert_array_equal(upright(noise(0), orientation), np.asarray(expected))


@pytest.mark.parametrize("said", [0, 9])
def test_an_orientation_that_is_none_turns_nothing(said: int) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = said
    Image.fromarray(noise(0)).save(file, "PNG", exif=exif)
    assert orientation_of(file.getvalue()) == 1
    assert oddities(file.getvalue()) == []


def test_an_orientation_of_xmp_alone_turns_nothing_as_in_viewers() -> None:
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    file = io.BytesIO()
    Image.fromarray(noise(0)).save(file, "JPEG", xmp=xmp)
    assert Image.open(file).getexif()[0x0112] == 6  # as Pillow sees it
    assert orientation_of(file.getvalue()) == 1 and oddities(file.getvalue()) == []


# What Pillow cannot open but OpenCV decodes.
@pytest.mark.parametrize("layout", [np.int16, np.int8])
def test_tiff_layouts_that_only_the_decoder_knows_are_read(layout: type) -> None:
    pixels = (noise(0) // 2).astype(layout)
    found = decode_image(encoded(".tif", pixels), "signed.tif")
    assert found.shape == pixels.shape


def test_of_a_jpeg_with_a_depth_map_the_picture_is_read() -> None:
    shown, depth = (Image.fromarray(noise(seed)) for seed in (0, 1))
    file = io.BytesIO()
    shown.save(file, "MPO", save_all=True, append_images=[depth])
    found = decode_image(file.getvalue(), "photo.jpg").astype(int)
    assert np.abs(found - noise(0)).mean() < np.abs(found - noise(1)).mean() / 2


def test_large_metadata_before_the_pixels_are_no_reason_to_refuse_a_png() -> None:
    data = encoded(".png", noise(0))
    text = png_chunk(b"zTXt", b"Raw profile type 8bim\0\0" + zlib.compress(bytes(5 << 20)))
    profile = png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(2 << 20)))
    described = data[:33] + profile + text + data[33:]
    np.testing.assert_array_equal(decode_image(described, "a"), decode_image(data, "b"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_header_gives_the_size(suffix: str) -> None:
    header = read_header(encoded(suffix, noise(0, 33, 57)))
    assert (header.height, header.width) == (33, 57)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_file_is_unreadable(suffix: str, share: float) -> None:
    data = encoded(suffix, noise(0, 200, 200))
    with pytest.raises(UnreadableImage, match="cut.name"):
        decode_image(data[: int(share * len(data))], "cut.name")


@pytest.mark.parametrize("suffix", FORMATS)
def test_bytes_after_the_picture_are_allowed(suffix: str) -> None:
    data = encoded(suffix, noise(0))
    np.testing.assert_array_equal(
        decode_image(data + b"\0trailer" * 20, "long"), decode_image(data, "short")
    )


def test_damaged_png_data_is_unreadable() -> None:
    data = bytearray(encoded(".png", noise(0)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImage, match="corrupt PNG"):
        decode_image(bytes(data), "picture")


def test_text_is_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("hello")
    with pytest.raises(UnreadableImage, match=r"notes\.jpg: not a JPEG.*hello"):
        read_image(path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(UnreadableImage, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UnreadableImage, match=r"gone\.png: cannot be opened"):
        read_image(tmp_path / "gone.png")


def test_picture_over_the_limit_is_refused_before_decoding() -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body)
        for kind, body in [
            (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"")),
            (b"IEND", b""),
        ]
    )
    with pytest.raises(UnreadableImage, match="60000 x 60000 pixels, more than the limit"):
        decode_image(bomb, "bomb")
    with pytest.raises(UnreadableImage, match="limit of 100"):
        decode_image(encoded(".png", noise(0)), "small", max_pixels=100)


def test_names_outside_ascii_and_with_spaces_work(tmp_path: Path) -> None:
    path = tmp_path / "Bïld né 图.png"
    path.write_bytes(encoded(".png", noise(0)))
    assert read_image(path).shape == (48, 72, 3)


def test_mask_keeps_its_grey_values(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(encoded(".png", mask))
    np.testing.assert_array_equal(read_mask(path), mask)
