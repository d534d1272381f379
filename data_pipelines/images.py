"""Reads pictures and masks from files, or says why a file cannot be read."""

import io
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from sapl_jax.errors import UserError


class Header(NamedTuple):
    """What a picture file says about itself: format name, width and height in pixels."""

    format: str
    width: int
    height: int


class BrokenHeader(ValueError):
    """The bytes are not a complete picture of a format read here; the message says why."""


def read_header(data: bytes) -> Header:
    """Format and size of the picture in `data`. Raises BrokenHeader for anything else."""
    for magic, reader in _READERS:
        if data.startswith(magic):
            try:
                header = reader(data)
            except (struct.error, IndexError, OverflowError) as error:
                raise BrokenHeader("truncated: the file ends inside its header") from error
            if header.width <= 0 or header.height <= 0:
                raise BrokenHeader(
                    f"the {header.format} header says {header.width} x {header.height} pixels"
                )
            return header
    raise BrokenHeader(f"not a JPEG, PNG, BMP, TIFF or WebP picture (it starts with {data[:8]!r})")


def _jpeg(data: bytes) -> Header:
    size = None
    at = 2
    while True:
        if data[at] != 0xFF:
            raise BrokenHeader("corrupt JPEG: no marker where one must be")
        while data[at] == 0xFF:  # any number of fill bytes may precede a marker
            at += 1
        marker = data[at]
        at += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise BrokenHeader("corrupt JPEG: it ends before any picture data")
        (length,) = struct.unpack_from(">H", data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = (width, height)
        at += max(length, 2)
        if marker == 0xDA:
            break
    if size is None:
        raise BrokenHeader("corrupt JPEG: no frame header before the picture data")
    # Coded data stuff a zero after every 0xFF, so the first FFD9 from here on ends the picture.
    if data.find(b"\xff\xd9", at) < 0:
        raise BrokenHeader("truncated JPEG: no end-of-image marker")
    return Header("JPEG", *size)


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    while True:
        if at + 12 > len(data):
            raise BrokenHeader("truncated PNG: no IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return Header("PNG", width, height)
        at += 12 + length


def _bmp(data: bytes) -> Header:
    offset, info_size = struct.unpack_from("<II", data, 10)
    if info_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: rows run from top to bottom
    row_bytes = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < offset + row_bytes * height:
        raise BrokenHeader(f"truncated BMP: {len(data)} bytes of {offset + row_bytes * height}")
    return Header("BMP", width, height)


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    if big:
        (at,) = struct.unpack_from(order + "Q", data, 8)
        (count,) = struct.unpack_from(order + "Q", data, at)
        at, step, value_at = at + 8, 20, 12
    else:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        at, step, value_at = at + 2, 12, 8
    size = {}
    for entry in range(at, at + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            if kind not in _TIFF_INTEGERS:
                raise BrokenHeader("corrupt TIFF: the picture size is not an integer")
            (size[tag],) = struct.unpack_from(order + _TIFF_INTEGERS[kind], data, entry + value_at)
    if len(size) < 2:
        raise BrokenHeader("corrupt TIFF: the first page has no size")
    return Header("TIFF", size[256], size[257])


def _webp(data: bytes) -> Header:
    if data[8:12] != b"WEBP":
        raise BrokenHeader("a RIFF file, but not a WebP picture")
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise BrokenHeader("truncated WebP: the file is shorter than its header says")
    kind = data[12:16]
    if kind == b"VP8X":
        low = struct.unpack_from("<HBHB", data, 24)
        return Header("WebP", 1 + low[0] + (low[1] << 16), 1 + low[2] + (low[3] << 16))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", width & 0x3FFF, height & 0x3FFF)


_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_READERS = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"BM", _bmp),
    (b"II*\x00", _tiff),
    (b"MM\x00*", _tiff),
    (b"II+\x00", _tiff),
    (b"MM\x00+", _tiff),
    (b"RIFF", _webp),
)


MAX_PIXELS = 200_000_000


class UnreadableImage(UserError):
    """A file that is not a complete picture; the message names the file and what was found."""


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file. Raises UnreadableImage where it cannot be opened or is empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise UnreadableImage(f"{path}: the file is empty")
    return data


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a picture as uint8 RGB [H, W, 3].

    JPEG, PNG, BMP, TIFF (first page) and WebP, recognised by content, not by name. Grey and
    palette pictures become RGB, 16-bit ones are scaled to 8 bits, an alpha channel is dropped
    (the colours below it stay as stored, nothing is blended). The EXIF orientation is ignored:
    masks and traces belong to the pixels as stored.

    Raises UnreadableImage for a missing, empty, truncated or corrupt file, one that is not a
    picture, and one whose header announces more than `max_pixels` pixels (checked before
    decoding).
    """
    return decode_image(read_bytes(path), path, max_pixels)


def decode_image(data: bytes, origin: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_image` for bytes already read; `origin` is the name that errors carry."""
    return cv2.cvtColor(_decode(data, origin, cv2.IMREAD_COLOR, max_pixels), cv2.COLOR_BGR2RGB)


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a mask as uint8 [H, W], grey values as stored (one-bit files give 0 and 255).

    Colour is reduced to luma; EXIF orientation is ignored. Raises UnreadableImage like
    `read_image`.
    """
    return _decode(read_bytes(path), path, cv2.IMREAD_GRAYSCALE, max_pixels)


def _decode(data: bytes, origin: str | Path, mode: int, max_pixels: int) -> np.ndarray:
    try:
        header = read_header(data)
    except BrokenHeader as error:
        raise UnreadableImage(f"{origin}: {error}") from error
    if header.width * header.height > max_pixels:
        raise UnreadableImage(
            f"{origin}: {header.width} x {header.height} pixels, more than the limit of "
            f"{max_pixels}; make it smaller or raise the limit"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UnreadableImage(f"{origin}: corrupt {header.format} data ({error.err})") from error
    if pixels is None:
        raise UnreadableImage(f"{origin}: corrupt {header.format} data")
    if pixels.shape[:2] != (header.height, header.width):
        raise UnreadableImage(
            f"{origin}: the header says {header.width} x {header.height} pixels, the data hold "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels


_EXIF_ORIENTATION = 0x0112
_MODES = {
    "1": "one-bit",
    "L": "grey",
    "LA": "grey, alpha dropped",
    "P": "palette",
    "PA": "palette, alpha dropped",
    "RGBA": "alpha dropped",
    "CMYK": "CMYK converted to RGB",
    "I;16": "16-bit grey, scaled to 8 bits",
    "I": "32-bit grey",
    "F": "floating-point grey",
}


def oddities(data: bytes) -> list[str]:
    """What is unusual about a picture file's bytes, in words; [] for a plain 8-bit RGB one.

    Reads the header only. A file that Pillow cannot open gives [] (reading it says what is wrong).
    """
    found = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size and metadata warnings are not about the pixels
            with Image.open(io.BytesIO(data)) as image:
                mode = "I;16" if image.mode.startswith("I;16") else image.mode
                if mode in _MODES:
                    found.append(_MODES[mode])
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return found
    # Pillow calls a 16-bit colour PNG plain RGB; depth and colour type are bytes 24 and 25.
    if data.startswith(b"\x89PNG") and data[24] == 16 and data[25] in (2, 6):
        found.append("16-bit colour, scaled to 8 bits")
    if isinstance(orientation, int) and orientation not in (0, 1):
        found.append(f"EXIF orientation {orientation} ignored: evaluated as stored")
    return found
