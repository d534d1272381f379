"""JPEG bytes of a picture and back; what one more save and load makes of it."""

import cv2
import numpy as np


def encode(picture: np.ndarray, quality: int, subsampling: str) -> bytes:
    """JPEG of a picture, uint8 RGB [H, W, 3]; quality 1 to 100, subsampling 4:4:4 or 4:2:0."""
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling.replace(':', '')}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:  # a side is over JPEG's limit
        raise ValueError(f"OpenCV cannot encode a picture of shape {picture.shape} as JPEG")
    return data.tobytes()


def decode(data: bytes) -> np.ndarray:
    """The picture in a JPEG that `encode` made, uint8 RGB [H, W, 3]."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def resave(picture: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """What a JPEG save and load makes of a picture, uint8 RGB [H, W, 3]."""
    return decode(encode(picture, quality, subsampling))
