"""Reads one picture file that may be anything, within limits, or says why it cannot be used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines import images
from sapl_jax.files import sha256_of

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Picture:
    """A picture that was read."""

    rgb: np.ndarray  # uint8 [H, W, 3]
    sha256: str  # of the file
    notes: tuple[str, ...] = ()  # what reading it left out
    orientation: int = 1  # EXIF's: how viewers turn the file, and what is written of it


def decode(data: bytes, origin: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file's bytes; `origin` is the name that errors carry.

    Raises:
        UnreadableImage: not a picture, damaged, an animation, or, before it is decoded, too large.
    """
    header = None if data.startswith(b"GIF8") else images.read_header(data, origin)
    if header is None or images.frames_of(header) > 1:
        kind = f"{header.format} of {images.frames_of(header)} frames" if header else "GIF"
        raise images.UnreadableImage(
            f"{origin}: an animation, or made for one ({kind}); SAPL analyses single pictures. "
            "Extract the frame you mean without compressing it again, for example as PNG."
        )
    rgb, notes = images.decode_image(data, origin, max_pixels), images.oddities(data)
    if min(rgb.shape[:2]) < images.MIN_SIDE:
        notes.append(f"a side under {images.MIN_SIDE} pixels: too small to tell")
    return Picture(rgb, sha256_of(data), tuple(notes), images.orientation_of(data))
