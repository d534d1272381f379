"""Says what reading a picture loses or changes: depth, palette, CMYK, alpha, EXIF rotation."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

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
