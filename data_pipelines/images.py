"""Reads pictures and masks from files with OpenCV, or says why a file cannot be read."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.headers import BrokenHeader, read_header
from sapl_jax.errors import UserError

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


def sha256_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


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
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION
        )
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
