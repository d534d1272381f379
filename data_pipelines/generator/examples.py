"""One numbered picture: sources, forgery or none, and the history both classes share."""

from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.generator.camera import Camera, sample_camera
from data_pipelines.generator.forgeries import KINDS, Source, copy_move, remove, splice
from data_pipelines.generator.scenes import render_scene
from data_pipelines.generator.seams import KINDS as SEAM_KINDS
from data_pipelines.generator.seams import seam_picture
from data_pipelines.jpeg import encode, resave

# interior: forgeries of other noise or resampling, seams blended. seam: nothing but the outline.
WORLDS = ("interior", "seam", "both")

# A splice from a twin of the target's camera would leave nothing to find.
NOISE_RATIO = 2.5
ASPECTS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3))


@dataclass(frozen=True)
class SourceId:
    """Names a source picture: the same id is the same picture, another id another picture."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.number}"

    def rng(self) -> np.random.Generator:
        """The random numbers that draw it."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.number]))


@dataclass(frozen=True)
class Example:
    """A finished picture: JPEG bytes, mask uint8 [H, W] (None: authentic), and what it is."""

    jpeg: bytes
    mask: np.ndarray | None
    kind: str  # "authentic" or what was done to it


def photograph(
    source: SourceId, height: int, width: int, unlike: Camera | None = None
) -> tuple[Source, Camera]:
    """The source picture of this id and its camera.

    `unlike`: a camera from which this one's noise must differ at least `NOISE_RATIO` times.
    """
    rng = source.rng()
    camera = sample_camera(rng)
    while unlike is not None and _similar(camera, unlike):
        camera = sample_camera(rng)
    scene = render_scene(rng, height, width)
    return Source(camera.shoot(scene.radiance, rng), scene.objects), camera


def _similar(first: Camera, second: Camera) -> bool:
    ratio = first.noise / second.noise
    return 1 / NOISE_RATIO < ratio < NOISE_RATIO


def whole_picture_edit(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """What people do to any picture: sometimes brightness and contrast, uint8 [H, W, 3]."""
    if rng.random() < 0.5:
        return picture
    return cv2.convertScaleAbs(picture, alpha=rng.uniform(0.85, 1.15), beta=rng.uniform(-12, 12))


def publish(
    rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[bytes, np.ndarray | None]:
    """The last steps of every picture: to `size` pixels on the longer side, then JPEG.

    Nothing here depends on whether the picture was tampered with.
    """
    longer = max(picture.shape[:2])
    if longer != size:
        shape = [max(2, round(side * size / longer)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
        if mask is not None:
            mask = cv2.resize(mask, shape, interpolation=cv2.INTER_AREA)
            mask = np.where(mask > 127, 255, 0).astype(np.uint8)
    quality = int(rng.integers(91, 99))
    subsampling = ("4:4:4", "4:2:0")[int(rng.integers(2))]
    return encode(picture, quality, subsampling), mask


def world_of(number: int, world: str) -> str:
    """The world of picture `number`, "interior" or "seam": in "both", every other pair of them."""
    return WORLDS[number // 2 % 2] if world == "both" else world


def kind_of(seed: int, number: int, world: str = "interior") -> str:
    """What picture `number` is: "authentic" for even numbers, else one of the world's KINDS."""
    return "authentic" if number % 2 == 0 else _last_edit(seed, number, world)


def sources_of(seed: int, number: int, world: str = "interior") -> tuple[SourceId, ...]:
    """What picture `number` is made from. In "seam", decoys too come from a second scene."""
    own, other = SourceId(seed, 2 * number), SourceId(seed, 2 * number + 1)
    two = world_of(number, world) == "seam" or kind_of(seed, number, world) == "splicing"
    return (own, other) if two else (own,)


def _last_edit(seed: int, number: int, world: str) -> str:
    kinds = KINDS if world_of(number, world) == "interior" else SEAM_KINDS
    return kinds[int(stream(seed, number, 4).integers(len(kinds)))]


def make_example(seed: int, number: int, size: int = 256, world: str = "interior") -> Example:
    """Picture `number` of the endless set `seed`, the same each time it is asked for.

    Picture n owns the sources 2n and 2n + 1, so no two pictures share one, nor do two seeds.
    The longer side of the result is `size` pixels. world: one of WORLDS.
    """
    rng = stream(seed, number, 1)
    aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
    scale = size / draw_shrink(rng) / max(aspect)
    width, height = (2 * round(side * scale / 2) for side in aspect)

    own, other = SourceId(seed, 2 * number), SourceId(seed, 2 * number + 1)
    kind, shape = kind_of(seed, number, world), (height, width)
    if world_of(number, world) == "seam":
        last, tampered = _last_edit(seed, number, world), number % 2 == 1
        picture, mask = seam_picture(rng, own.rng(), other.rng(), shape, last, tampered)
    else:
        picture, mask = _interior_picture(rng, own, other, shape, kind)
    # An independent stream: how a picture is published must not depend on the forgery's draws.
    jpeg, mask = finish(stream(seed, number, 2), picture, mask, size)
    return Example(jpeg, mask, kind)


def finish(
    rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[bytes, np.ndarray | None]:
    """Edits, saves and publishes a picture of either class: JPEG bytes and mask."""
    picture = whole_picture_edit(rng, picture)
    if rng.random() < 0.5:  # Saved once by the editor, before it is published.
        picture = resave(picture, int(rng.integers(92, 99)), "4:4:4")
    return publish(rng, picture, mask, size)


def _interior_picture(
    rng: np.random.Generator, own: SourceId, other: SourceId, shape: tuple[int, int], kind: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture whose forgery, if any, differs over its whole area: uint8 [H, W, 3] and mask."""
    target, camera = photograph(own, *shape)
    if kind == "splicing":
        return splice(rng, target, photograph(other, *shape, unlike=camera)[0])
    if kind == "copy-move":
        return copy_move(rng, target)
    if kind == "removal":
        return remove(rng, target)
    return target.picture, None


def draw_shrink(rng: np.random.Generator) -> float:
    """The factor by which publishing shrinks a picture: half are not resized."""
    return 1.0 if rng.random() < 0.5 else rng.uniform(0.85, 1.0)


def stream(seed: int, number: int, use: int) -> np.random.Generator:
    """Random numbers of one picture for one use; sources have streams of two entries."""
    return np.random.default_rng(np.random.SeedSequence([seed, number, use]))
