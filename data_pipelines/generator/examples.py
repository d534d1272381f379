"""One numbered picture: sources, forgery or none, and the history both classes share."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from data_pipelines.generator import forgeries, seams
from data_pipelines.generator.camera import Camera, sample_camera
from data_pipelines.generator.scenes import render_scene
from data_pipelines.images import decode_image, encode_jpeg, resave

# interior: forgeries of other noise or resampling, seams blended. seam: nothing but the outline,
# and decoys. copy-move: unblended copies, whose outlines are to other edges as CASIA v1's.
WORLDS = ("interior", "seam", "both", "copy-move")

CANDIDATES = 6  # copies drawn for each that "copy-move" has: outlines as strong as CASIA v1's
# A splice from a twin of the target's camera would leave nothing to find.
NOISE_RATIO = 2.5
ASPECTS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3))


@dataclass(frozen=True)
class Example:
    """A finished picture: JPEG bytes, mask uint8 [H, W] (None: authentic), and what it is."""

    jpeg: bytes
    mask: np.ndarray | None
    kind: str  # "authentic" or what was done to it


def stream(*entries: int) -> Generator:
    """Random numbers of a source picture (seed, number) or of one use (seed, number, use)."""
    return np.random.default_rng(np.random.SeedSequence(entries))


def world_of(number: int, world: str) -> str:
    """The world of picture `number`: in "both", "interior" and "seam" for every other pair."""
    return WORLDS[number // 2 % 2] if world == "both" else world


def kind_of(seed: int, number: int, world: str = "interior") -> str:
    """What picture `number` is: "authentic" for even numbers, else one of the world's KINDS."""
    return "authentic" if number % 2 == 0 else _last_edit(seed, number, world)


def sources_of(seed: int, number: int, world: str = "interior") -> tuple[str, ...]:
    """What picture `number` is made from. In "seam", decoys too come from a second scene."""
    if world == "copy-move":
        return sources_of(seed, 2 * number)
    two = world_of(number, world) == "seam" or kind_of(seed, number, world) == "splicing"
    return tuple(f"{seed}:{2 * number + k}" for k in range(1 + two))


def _last_edit(seed: int, number: int, world: str) -> str:
    if world == "copy-move":
        return world
    kinds = (forgeries if world_of(number, world) == "interior" else seams).KINDS
    return kinds[int(stream(seed, number, 4).integers(len(kinds)))]


def make_example(seed: int, number: int, size: int = 256, world: str = "interior") -> Example:
    """Picture `number` of the endless set `seed`, the same each time it is asked for.

    Each picture has sources of its own: no two pictures share one, nor do two seeds.
    The longer side of the result is `size` pixels. world: one of WORLDS.
    """
    if world == "copy-move":
        picture = decode_image(make_example(seed, 2 * number, size).jpeg, "generated")
        return hard_copy_move(stream(seed, number, 7), picture, number % 2 == 1, CANDIDATES)
    rng = stream(seed, number, 1)
    aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
    scale = size / draw_shrink(rng) / max(aspect)
    width, height = (2 * round(side * scale / 2) for side in aspect)
    own, other = stream(seed, 2 * number), stream(seed, 2 * number + 1)
    kind, shape = kind_of(seed, number, world), (height, width)
    mask = None
    if world_of(number, world) == "seam":
        last, tampered = _last_edit(seed, number, world), number % 2 == 1
        picture, mask = seams.seam_picture(rng, own, other, shape, last, tampered)
    else:  # A forgery, if any, differs over its whole area.
        target, camera = _photograph(own, shape)
        picture = target.picture
        if kind == "splicing":
            picture, mask = forgeries.splice(rng, target, _photograph(other, shape, camera)[0])
        elif kind == "copy-move":
            picture, mask = forgeries.copy_move(rng, target)
        elif kind == "removal":
            picture, mask = forgeries.remove(rng, target)
    # An independent stream: how a picture is published must not depend on the forgery's draws.
    jpeg, mask = finish(stream(seed, number, 2), picture, mask, size)
    return Example(jpeg, mask, kind)


def hard_copy_move(rng: Generator, picture: np.ndarray, tampered: bool, candidates: int) -> Example:
    """An authentic picture, uint8 [H, W, 3], saved once more; where `tampered`, forged before.

    A shape is filled from elsewhere in it, unblended: of `candidates` the one of strongest outline.
    """
    quality, mask = int(rng.integers(90, 99)), None
    if tampered:
        own = forgeries.Source(picture, [])
        pastes = [forgeries.draw_paste(rng, own, own, lambda: (1, 0)) for _ in range(candidates)]
        above, mask = max(pastes, key=lambda paste: forgeries.outline_step(picture, *paste))
        picture = np.where(mask[..., None] > 0, above, picture)
    kind = "copy-move" if tampered else "authentic"
    return Example(encode_jpeg(picture, quality, "4:4:4"), mask, kind)


def _photograph(
    rng: Generator, shape: tuple[int, int], unlike: Camera | None = None
) -> tuple[forgeries.Source, Camera]:
    """A source picture and its camera, whose noise is at least NOISE_RATIO from `unlike`'s."""
    camera = sample_camera(rng)
    while unlike and 1 / NOISE_RATIO < camera.noise / unlike.noise < NOISE_RATIO:
        camera = sample_camera(rng)
    scene = render_scene(rng, *shape)
    return forgeries.Source(camera.shoot(scene.radiance, rng), scene.objects), camera


def draw_shrink(rng: Generator) -> float:
    """The factor by which publishing shrinks a picture: half are not resized."""
    return 1.0 if rng.random() < 0.5 else rng.uniform(0.85, 1.0)


def finish(
    rng: Generator, picture: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[bytes, np.ndarray | None]:
    """The last steps of every picture, tampered with or not, uint8 [H, W, 3]: JPEG bytes and mask.

    Half are made brighter or darker, half saved by an editor; all published at `size` pixels.
    """
    if rng.random() >= 0.5:
        alpha, beta = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
        picture = cv2.convertScaleAbs(picture, alpha=alpha, beta=beta)
    if rng.random() < 0.5:
        picture = resave(picture, int(rng.integers(92, 99)), "4:4:4")
    longer = max(picture.shape[:2])
    if longer != size:
        shape = [max(2, round(side * size / longer)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
        if mask is not None:
            mask = cv2.resize(mask, shape, interpolation=cv2.INTER_AREA)
            mask = np.where(mask > 127, 255, 0).astype(np.uint8)
    quality = int(rng.integers(91, 99))
    return encode_jpeg(picture, quality, ("4:4:4", "4:2:0")[int(rng.integers(2))]), mask
