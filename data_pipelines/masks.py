"""Ground-truth masks as the evaluation needs them: white = tampered, of the picture's own size.

Data sets store masks in different ways, which a sample's mask style names:

`white`     grey levels, white = tampered (CASIA, COVERAGE, most others), or 0 and 1
`black`     grey levels, black = tampered (NIST16)
`nonzero`   anything but 0 is tampered (IMD2020)
`columbia`  a lossy JPEG of a palette: either green is the spliced side, either red the background

Where a mask is no picture, its `Outlines` are in the style's place. Training opens no mask.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.images import MAX_PIXELS, read_image, read_mask
from data_pipelines.listing import Outlines
from sapl_jax.errors import UserError

_COLUMBIA = ((255, 0, 0), (200, 0, 0), (0, 255, 0), (0, 200, 0))  # background, then spliced
# Channels of a grey JPEG decode to within this of each other; the palette's are 200 apart.
_GREY_SPREAD = 32
# How far the aspect ratios of a mask and its picture may differ for a plain resize to be right.
_ASPECT_TOLERANCE = 0.05
SUSPECT = 0.9  # A mask that marks more of its picture is inverted, or none.


class Mask(NamedTuple):
    """A mask fitted to its picture: uint8 [H, W], 255 = tampered; what that took, or None."""

    grey: np.ndarray
    note: str | None = None


def load_mask(path: Path, image: np.ndarray, style: str | Outlines = "white") -> Mask:
    """Reads or draws a mask, as `style` says, and fits it to its picture, uint8 RGB [H, W, 3].

    A mask with the picture's sides exchanged is turned by 90 degrees, to where its outline follows
    the picture's edges better; one of the same aspect ratio (within 5 %) is resized to the nearest
    pixel. Raises UserError for any other size and for a file that is no picture.
    """
    grey = _drawn(style, path) if isinstance(style, Outlines) else _read(path, style)
    (height, width), (mask_height, mask_width) = image.shape[:2], grey.shape
    found, wanted = f"{mask_width}x{mask_height}", f"{width}x{height}"
    if found == wanted:
        return Mask(grey)
    if grey.shape == (width, height):
        turns = _turns_that_follow_edges(grey, image)
        note = f"mask is turned: {found} for a {wanted} picture; turned 90 degrees to the "
        note += f"{'left' if turns == 1 else 'right'}, where it follows the picture's edges"
        return Mask(np.ascontiguousarray(np.rot90(grey, turns)), note)
    if abs((mask_width / width) / (mask_height / height) - 1) <= _ASPECT_TOLERANCE:
        resized = cv2.resize(grey, (width, height), interpolation=cv2.INTER_NEAREST)
        return Mask(resized, f"mask is {found}, picture {wanted}: resized")
    mend = "the shapes do not match, so check that it belongs to this picture"
    raise UserError(f"{path}: mask is {found} but its picture is {wanted}; {mend}")


def looks_inverted(shares: Sequence[float]) -> str:
    """What to say where half of five or more masks mark over half of their picture, else "".

    shares: what each marks, 0 to 1. In every known set the median is far less: objects are pasted.
    """
    median = float(np.median(shares)) if len(shares) >= 5 else 0.0
    found = f"masks look inverted: half of them mark over {median:.0%} as tampered"
    return found if median > 0.5 else ""


def _read(path: Path, style: str) -> np.ndarray:
    """255 where `style` says tampered; Columbia's where the nearest palette colour is a green."""
    if style == "white":
        grey = read_mask(path)
        return grey * 255 if grey.max() == 1 else grey
    if style == "black":
        return 255 - read_mask(path)
    if style == "nonzero":
        return np.where(read_mask(path) > 0, 255, 0).astype(np.uint8)
    if style != "columbia":
        raise ValueError(f"{style!r} is no mask style")
    rgb = read_image(path)
    if int(np.ptp(rgb, axis=-1).max(initial=0)) < _GREY_SPREAD:  # converted to grey
        return rgb[..., 0].copy()
    distance = np.square(rgb[..., None, :].astype(np.int32) - _COLUMBIA).sum(-1)
    return np.where(distance.argmin(-1) >= 2, 255, 0).astype(np.uint8)


def _drawn(outlines: Outlines, path: Path) -> np.ndarray:
    """255 inside the polygons, on a mask of the size they were drawn for."""
    height, width = outlines.size
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise UserError(f"{path}: says that its picture has {width}x{height} pixels")
    grey = np.zeros((height, width), np.uint8)
    for polygon in outlines.polygons:
        corners = np.clip(np.reshape(polygon, (-1, 2)), 0, (width - 1, height - 1))
        cv2.fillPoly(grey, [np.rint(corners).astype(np.int32)], 255)
    return grey


def _turns_that_follow_edges(grey: np.ndarray, image: np.ndarray) -> int:
    """Quarter turns to the left, 1 or 3, that put the mask's outline on stronger edges."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.magnitude(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))

    def followed(turns: int) -> float:
        binary = np.ascontiguousarray((np.rot90(grey, turns) > 127).astype(np.uint8))
        outline = cv2.morphologyEx(binary, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        return float(strength[outline].mean()) if outline.any() else 0.0

    return 1 if followed(1) >= followed(3) else 3
