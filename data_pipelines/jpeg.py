"""JPEG bytes of a picture and back; what one more save and load makes of it."""

import cv2
import numpy as np

_SUBSAMPLING = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


def encode(picture: np.ndarray, quality: int, subsampling: str) -> bytes:
    """JPEG bytes of a picture, uint8 RGB [H, W, 3], at a quality from 1 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SUBSAMPLING[subsampling]]
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
