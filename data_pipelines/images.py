"""Reads pictures and masks from files, or says why a file cannot be read.

Pillow tells what a file is, from its header; OpenCV decodes, and refuses what is not complete.
"""

import io
import re
import warnings
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.Image import Exif
from PIL.ImageFile import ImageFile

from sapl_jax.errors import UserError

MAX_PIXELS = 200_000_000
MIN_SIDE = 64  # Smaller pictures show too little of what was done to them.
_EXIF_ORIENTATION = 0x0112


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF of any layout, of the size that is stored: OpenCV says what can be decoded."""

    def _setup(self) -> None:
        with suppress(SyntaxError, KeyError, ValueError, TypeError):
            super()._setup()
        self._mode = self._mode or "RGB"
        self._size = int(self.tag_v2[256]), int(self.tag_v2[257])


# Not Image.open: it has a limit of pixels of its own, and takes a JPEG with a depth map for two.
_PLUGINS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II": _Tiff,
    b"MM": _Tiff,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}
# Pillow's own limit, 1 MiB, refuses pictures for the metadata that photograph programs leave.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Pillow warns of damaged metadata, which say nothing of the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # What it cannot read, we list.


class UnreadableImage(UserError):
    """A file that is not a complete picture; the message names the file and what was found."""


def read_header(data: bytes, origin: str | Path = "picture") -> ImageFile:
    """The picture in `data` as Pillow sees it, not decoded: format, size, mode, frames.

    `origin` is the name that errors carry. Raises UnreadableImage for bytes that are no JPEG, PNG,
    BMP, TIFF or WebP picture, or have a damaged header.
    """
    for magic, plugin in _PLUGINS.items():
        if data.startswith(magic):
            try:
                return plugin(io.BytesIO(data))
            except MemoryError:
                raise
            except Exception as error:  # of any kind, by what is damaged
                what = f"truncated or corrupt {plugin.format} header ({error})"
                raise UnreadableImage(f"{origin}: {what}") from error
    start = f"it starts with {data[:12]!r}"
    raise UnreadableImage(f"{origin}: not a JPEG, PNG, BMP, TIFF or WebP picture ({start})")


def frames_of(header: ImageFile) -> int:
    """How many pictures an animation shows; 1 for a TIFF: its are pages, which are not counted."""
    frames = 1 if isinstance(header, _Tiff) else getattr(header, "n_frames", 1)
    # A PNG may hold one picture more, for viewers that show no animation.
    return frames - getattr(header, "default_image", False)


def read_bytes(path: str | Path, max_bytes: int | None = None) -> bytes:
    """The bytes of a file. UnreadableImage where it cannot be opened, is empty or too large."""
    try:
        with Path(path).open("rb") as file:
            # One byte more than allowed: the file may grow, or lie about its size.
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise UnreadableImage(f"{path}: the file is empty")
    if max_bytes is not None and len(data) > max_bytes:
        raise UnreadableImage(f"{path}: more than {max_bytes >> 20} MiB, too large for a picture")
    return data


def read_image(path: str | Path) -> np.ndarray:
    """Reads a picture as uint8 RGB [H, W, 3].

    JPEG, PNG, BMP, TIFF (first page) and WebP, recognised by content. Grey and palette pictures
    become RGB, 16-bit ones are scaled to 8 bits, an alpha channel is dropped, nothing blended. The
    EXIF orientation is ignored: masks and traces belong to the pixels as stored.

    Raises UnreadableImage for a missing, empty, truncated or corrupt file, one that is not a
    picture, and one whose header announces more than MAX_PIXELS.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, origin: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_image` for bytes already read; `origin` is the name that errors carry."""
    return decode_pixels(data, origin, cv2.IMREAD_COLOR_RGB, max_pixels)


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_levels` as uint8, 16 bits reduced to 8 unless none is above 255."""
    grey = read_levels(path, max_pixels)
    return (grey >> 8 if grey.max() > 255 else grey).astype(np.uint8)


def read_levels(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads grey values as stored, uint8 or uint16 [H, W] (one-bit files give 0 and 255).

    Colour is reduced to luma; orientation and errors as for `read_image`.
    """
    mode = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    grey = decode_pixels(read_bytes(path), path, mode, max_pixels)
    if grey.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(f"{path}: has values of {grey.dtype}; expected 8 or 16 bits")
    return grey


def decode_pixels(data: bytes, origin: str | Path, mode: int, max_pixels: int) -> np.ndarray:
    """A picture's pixels as OpenCV gives them in a mode (cv2.IMREAD_*); errors as `read_image`."""
    header = read_header(data, origin)
    announced = f"{header.width} x {header.height} pixels"
    if header.width * header.height > max_pixels:
        limit = f"more than the limit of {max_pixels}; make it smaller"
        raise UnreadableImage(f"{origin}: {announced}, {limit}")
    if header.format == "JPEG" and not _is_whole_jpeg(data):
        raise UnreadableImage(f"{origin}: truncated JPEG, or one with damaged segments")
    pixels = None
    with suppress(cv2.error, OSError, SyntaxError, ValueError, IndexError):
        # For PNG: where the length of a chunk is damaged, OpenCV allocates gigabytes.
        header.verify()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
        if isinstance(header, _Tiff) and header.mode == "RGBA" and header.tag_v2[258][0] == 8:
            # OpenCV multiplies these by their alpha.
            rgb = np.array(read_header(data).convert("RGB"))
            pixels = rgb if mode == cv2.IMREAD_COLOR_RGB else cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if pixels is None:
        bits = header.tag_v2.get(258, ()) if isinstance(header, _Tiff) else ()
        kind = "unsupported 32-bit" if 32 in bits else "truncated or corrupt"
        raise UnreadableImage(f"{origin}: {kind} {header.format} data")
    if isinstance(header, _Tiff):
        pixels = _turned_back(pixels, header.tag_v2.get(_EXIF_ORIENTATION))
    if pixels.shape[1::-1] != header.size:
        held = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UnreadableImage(f"{origin}: the header says {announced}, the data hold {held}")
    return pixels


def _turned_back(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """A TIFF's pixels as stored: OpenCV turns these whatever it is told."""
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as stored, turned as viewers show a file of that EXIF orientation."""
    return _turned_back(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def orientation_of(data: bytes) -> int:
    """EXIF orientation of a picture file's bytes, 1 to 8; 1, as stored, where it says none."""
    try:
        header, exif = read_header(data), Exif()
        # Not `getexif`, which takes XMP's as well, as no viewer does.
        exif.load(header.info.get("exif", b""))
        found = getattr(header, "tag_v2", exif).get(_EXIF_ORIENTATION)
    except Exception:  # of any kind, by what is damaged
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether segment follows segment up to the pixels, and a mark ends these.

    OpenCV refuses cut pixels, but neither damaged segments nor a missing end mark.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        is_fill = data[at + 1 : at + 2] == b"\xff"
        at += 1 if is_fill else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return data[at : at + 2] == b"\xff\xda" and data.find(b"\xff\xd9", at) > 0


def encode_jpeg(picture: np.ndarray, quality: int, subsampling: str) -> bytes:
    """JPEG of a picture, uint8 RGB [H, W, 3]; quality 1 to 100, subsampling 4:4:4 or 4:2:0."""
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling.replace(':', '')}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:  # a side is over JPEG's limit
        raise UserError(f"no JPEG can be made of a picture of shape {picture.shape}")
    return data.tobytes()


def resave(picture: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """What a JPEG save and load makes of a picture, uint8 RGB [H, W, 3]; as `encode_jpeg`."""
    data = np.frombuffer(encode_jpeg(picture, quality, subsampling), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


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
    try:
        image = read_header(data)
    except UnreadableImage:
        return []
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    found = [_MODES[mode]] if mode in _MODES else []
    # Pillow calls 16-bit colour plain RGB, but decodes it as RGB;16B or the like.
    if any(re.search(r"RGB\w*;16", str(tile.args)) for tile in image.tile):
        found.append("16-bit colour, scaled to 8 bits")
    if (orientation := orientation_of(data)) != 1:
        found.append(f"EXIF orientation {orientation} ignored: evaluated as stored")
    if image.mode in ("P", "L", "RGB") and "transparency" in image.info:
        found.append("transparency dropped")
    if frames_of(image) > 1:
        found.append("an animation: only its first frame was analysed")
    if isinstance(image, _Tiff) and image.tag_v2.next:
        found.append("a TIFF of several pages: only the first was analysed")
    return found
