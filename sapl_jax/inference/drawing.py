"""What people look at: heat map and mask as 8-bit pictures, overlay, regions."""

import cv2
import numpy as np

from data_pipelines.images import UnreadableImage
from data_pipelines.preprocess import Geometry, resize

_EXIF = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0%c\0\0\0\0\0\0"  # one tag: orientation
_CONTOUR = (0, 255, 255)  # cyan is rare in pictures and not in the colour scale


def heat_map_to_grey(heat_map: np.ndarray) -> np.ndarray:
    """Float [H,W] in [0,1] -> uint8 [H,W], 0 to 255."""
    return np.rint(heat_map * 255).astype(np.uint8)


def mask_to_grey(mask: np.ndarray) -> np.ndarray:
    """Bool [H,W] -> uint8 [H,W], 255 = tampered."""
    return mask.astype(np.uint8) * 255


def overlay(
    rgb: np.ndarray, heat_map: np.ndarray, mask: np.ndarray, opacity: float = 0.7
) -> np.ndarray:
    """The picture with its heat map over it and the mask's outline, uint8 RGB [H,W,3].

    The colour runs from dark blue (0) over red to yellow (1) and covers the picture in proportion
    to the map (by `opacity` where that is 1), so that what is not suspected stays visible. `rgb` is
    uint8 [H,W,3], `heat_map` float [H,W] in [0,1], `mask` bool [H,W].
    """
    grey = heat_map_to_grey(heat_map)
    colour = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
    # 8-bit arithmetic in place: a float copy of a large picture would be four times its size.
    share = cv2.merge([cv2.convertScaleAbs(grey, alpha=opacity)] * 3)
    result = cv2.add(
        cv2.multiply(colour, share, scale=1 / 255), cv2.multiply(rgb, 255 - share, scale=1 / 255)
    )
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Of panoramas by the shorter side, or small regions vanish behind their outline.
    thickness = max(1, round(min(max(rgb.shape[:2]) / 400, min(rgb.shape[:2]) / 60)))
    return cv2.drawContours(result, contours, -1, _CONTOUR, thickness)


def regions(mask: np.ndarray) -> list[dict[str, int]]:
    """Connected regions of a mask bool [H,W], the largest first.

    Each is {"x", "y", "width", "height", "pixels"}: bounding box from the top left, in pixels, and
    area. Pixels that touch at a corner are connected.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    names = ("x", "y", "width", "height", "pixels")
    found = [dict(zip(names, map(int, row), strict=True)) for row in stats[1:]]
    return sorted(found, key=lambda region: (-region["pixels"], region["y"], region["x"]))


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels [H,W] or [H,W,3] with a longer side of at most `side`; smaller ones as they are."""
    return resize(pixels, Geometry(min(side, max(pixels.shape[:2])), patch=1))


def encode_png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """PNG bytes of uint8 [H,W] or RGB [H,W,3]; UnreadableImage where PNG cannot hold the size.

    `orientation`, EXIF's, is written down, so that viewers turn it as the picture that it is of.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    exif = np.frombuffer(_EXIF % orientation, np.uint8)
    done, data = cv2.imencodeWithMetadata(".png", pixels, [cv2.IMAGE_METADATA_EXIF], [exif])
    if not done:
        raise UnreadableImage(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} has no PNG")
    return data.tobytes()
