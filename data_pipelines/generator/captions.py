"""Captioned pictures for pretraining: what a whole picture shows and how it was processed.

A picture is a generated scene, or a real photograph taken again, by a simulated camera. None is a
forgery, and no caption says authentic or tampered: every word is true of the whole picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from data_pipelines.generator.camera import sample_camera
from data_pipelines.generator.examples import finish, stream
from data_pipelines.generator.scenes import render_scene
from data_pipelines.images import decode_image, read_image

# Each property of the history takes one of its words in every picture.
HISTORY: dict[str, tuple[str, ...]] = {
    "focus": ("sharp", "soft", "blurred"),
    "denoising": ("untouched", "smoothed"),
    "sharpening": ("plain", "crisp", "harsh"),
    "demosaicing": ("bilinear", "adaptive"),
    "compression": ("coarse", "medium", "high"),
    "balance": ("cool", "neutral", "warm"),
    "resampling": ("straight", "turned", "enlarged", "reduced"),
    "retouching": ("raw", "softened", "smeared"),
    "grain": ("silken", "clean", "fine", "light", "grainy", "noisy", "rough"),
}
CONTENT = (
    "landscape", "sky", "hills", "water", "trees", "city", "buildings", "windows", "street",
    "table", "wall", "balls", "boxes", "page", "text", "figure", "closeup", "pieces", "plaster",
    "stone", "wood", "cloth", "brick", "grass", "gravel",
)  # fmt: skip


@dataclass(frozen=True)
class Captioned:
    """A square photograph, uint8 RGB [S, S, 3]: words for its content, one word per property."""

    picture: np.ndarray
    content: tuple[str, ...]
    history: tuple[str, ...]  # in the order of HISTORY


def captioned_picture(
    seed: int, number: int, size: int, photographs: Sequence[Path] = ()
) -> Captioned:
    """Picture `number` of the endless captioned stream `seed`, the same each time.

    photographs: files to take the scene from; without any it is generated. What a photograph shows
    is not known, so it has no words for content.
    """
    frame = 2 * round(0.6 * size)
    rng = stream(seed, number)
    camera = sample_camera(rng)
    if photographs:
        # Less noise, as a photograph brings its own; saved at 50 to 99.
        less, quality = rng.uniform(), int(100 - 50 * rng.uniform(0.2, 1) ** 3)
        read, shot = less * camera.read_noise, less**2 * camera.shot_noise
        camera = replace(camera, read_noise=read, shot_noise=shot, quality=quality)
        path = photographs[int(rng.integers(len(photographs)))]
        radiance, content = _photographed(rng, read_image(path), frame), []
    else:
        scene = render_scene(rng, frame, frame)
        radiance, content = scene.radiance, scene.words
    noiseless = replace(camera, read_noise=0.0, shot_noise=0.0)
    # Both go the same way, so their difference is the noise that is left in the finished picture.
    picture, edits = _finish(stream(seed, number, 3), camera.shoot(radiance, rng), size)
    reference, _ = _finish(stream(seed, number, 3), noiseless.shoot(radiance, rng), size)
    noise = np.sqrt(np.mean(np.square(picture.astype(np.float32) - reference)))  # grey levels
    numbers = {  # and the limits between their words
        "focus": (camera.blur, (0.8, 1.0)),
        "denoising": (camera.denoising, (0.0,)),
        "sharpening": (camera.sharpening, (0.05, 0.7)),
        "compression": (camera.quality, (90, 95)),
        "balance": (camera.white_balance[0] / camera.white_balance[1], (0.9, 1.1)),
        "grain": (noise, (1.0, 2.0, 3.0, 4.5, 7.0, 11.0)),
    }
    words = {k: HISTORY[k][int(np.searchsorted(limits, v))] for k, (v, limits) in numbers.items()}
    words |= edits | {"demosaicing": camera.demosaicing}
    return Captioned(picture, tuple(content), tuple(words[name] for name in HISTORY))


def _photographed(rng: Generator, picture: np.ndarray, frame: int) -> np.ndarray:
    """Linear light, float32 [frame, frame, 3] in [0, 1], of a random square, shrunk by up to 2."""
    side = min(*picture.shape[:2], round(frame * rng.uniform(1, 2)))
    y, x = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    square = picture[y : y + side, x : x + side][:, :: rng.choice((1, -1))]
    how = cv2.INTER_AREA if side > frame else cv2.INTER_CUBIC
    return cv2.pow(cv2.resize(square, (frame, frame), interpolation=how) / np.float32(255), 2.2)


def _finish(rng: Generator, frame: np.ndarray, size: int) -> tuple[np.ndarray, dict[str, str]]:
    """The finished square picture and the words for its resampling and retouching."""
    side = frame.shape[0]
    resampling = HISTORY["resampling"][int(rng.choice(4, p=(0.4, 0.2, 0.2, 0.2)))]
    if resampling == "straight":
        top, left = rng.integers(0, side - size + 1, 2)
        picture = frame[top : top + size, left : left + size]
    else:
        angle, scale = 0.0, 1.0
        if resampling == "turned":
            angle = rng.uniform(3, 30) * rng.choice((-1, 1))
        else:
            scale = rng.uniform(*((1.2, 2.2) if resampling == "enlarged" else (0.84, 0.95)))
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, scale)
        matrix[:, 2] += (size - side) / 2
        picture = cv2.warpAffine(frame, matrix, (size, size), borderMode=cv2.BORDER_REFLECT)
    retouching = HISTORY["retouching"][int(rng.choice(3, p=(0.7, 0.15, 0.15)))]
    if retouching == "softened":
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.2, 3.0))
    elif retouching == "smeared":
        picture = cv2.medianBlur(np.ascontiguousarray(picture), int(rng.choice((5, 7, 9))))
    words = {"resampling": resampling, "retouching": retouching}
    return decode_image(finish(rng, picture, None, size)[0], "picture"), words
