"""Reads one picture file that may be anything, within limits, or says why it cannot be used."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.images import UnreadableImage, decode_image, oddities
from sapl_jax.files import sha256_of

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        rgb: uint8 [H, W, 3].
        sha256: of the file.
        notes: what reading it left out.
    """

    rgb: np.ndarray
    sha256: str
    notes: tuple[str, ...] = ()


def read_limited(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file; UnreadableImage where it is empty, larger, or gone."""
    try:
        with path.open("rb") as file:
            # One byte more than allowed: the file may grow, or lie about its size.
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise UnreadableImage(f"{path}: the file is empty")
    if len(data) > max_bytes:
        raise UnreadableImage(f"{path}: more than {max_bytes >> 20} MiB, too large for a picture")
    return data


def decode(data: bytes, origin: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file's bytes.

    Args:
        data: the file.
        origin: the name that errors carry.
        max_pixels: checked before anything is decoded.

    Raises:
        UnreadableImage: not a picture, damaged, an animation, or too many pixels.
    """
    frames = frames_in(data)
    if frames is not None:
        raise UnreadableImage(
            f"{origin}: an animation ({frames}); SAPL analyses single pictures. Extract the frame "
            "you mean without compressing it again, for example as PNG."
        )
    rgb = decode_image(data, origin, max_pixels)
    notes = oddities(data)
    if has_more_pages(data):
        notes.append("a TIFF of several pages: only the first was analysed")
    return Picture(rgb, sha256_of(data), tuple(notes))


def frames_in(data: bytes) -> str | None:
    """What kind of animation the bytes are, in words, or None for a still picture."""
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _animated_png(data)
    is_extended_webp = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X"
    if is_extended_webp and len(data) > 20 and data[20] & 0x02:
        return "animated WebP"
    return None


def _animated_png(data: bytes) -> str | None:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL" and at + 12 + length <= len(data) and length >= 4:
            frames = struct.unpack_from(">I", data, at + 8)[0]
            return f"PNG of {frames} frames" if frames > 1 else None
        if kind in (b"IDAT", b"IEND"):  # acTL must stand before the pixels.
            return None
        at += 12 + length
    return None


def has_more_pages(data: bytes) -> bool:
    """Whether the bytes are a TIFF with a second page."""
    if data[:4] not in (b"II*\x00", b"MM\x00*"):
        return False
    order = "<" if data[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, first)
        (second,) = struct.unpack_from(order + "I", data, first + 2 + 12 * entries)
    except struct.error:
        return False
    return second != 0
