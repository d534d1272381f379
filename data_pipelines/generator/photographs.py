"""Forgeries from a folder of real photographs, with the history that both classes share.

Pictures 2k and 2k + 1, one authentic, one tampered, are the same crop of the same photograph with
the same edits and saves: they differ by the forgery alone.
Photographs are parted twice: by a hash of their names into train, validation and test (`--split`),
and each of these into groups. Forgeries take target and donor from one group, so that a training
set can be split again without sharing one.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from data_pipelines.generator import examples, forgeries
from data_pipelines.generator.examples import Example, draw_shrink, finish, stream
from data_pipelines.images import UnreadableImage, decode_image, read_image, read_levels
from data_pipelines.listing import list_pictures
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.errors import UserError
from sapl_jax.files import sha256_of

# Shares of 1 in which SHA-256 of "split/<stem>" lies.
SPLITS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# An outline adds edges to a picture and inpainting takes some away. With about this many removals
# the two cancel, and neither a file's size nor its edges tell the classes apart.
ODDS = {"splicing": 0.4, "copy-move": 0.4, "removal": 0.2}
CANDIDATES = 3  # pastes drawn for each one that is made, the one with the strongest step
COPIES = 2  # the same in "copy-move": outlines as strong as CASIA v1's
_GROUPS, _GROUP_SIZE = 20, 4  # at most so many groups, of at least so many photographs


@dataclass(frozen=True)
class Library:
    """The photographs of one split in the order of their hash, and label images by stem."""

    pictures: tuple[Path, ...]
    segments: dict[str, Path]
    split: str

    def settings(self) -> dict[str, Any]:
        """What tells this library from others: names and sizes in bytes of its files, hashed."""
        files = [*self.pictures, *(self.segments.get(p.stem) for p in self.pictures)]
        text = "/".join(f"{file.name}:{file.stat().st_size}" for file in files if file)
        digest = sha256_of(text.encode())[:12]
        return {"photographs": len(self.pictures), "split": self.split, "files": digest}


def open_library(
    folder: str | Path, segments: str | Path | None = None, split: str = "train"
) -> Library:
    """Lists the photographs of a folder that belong to a split, by their names, as SPLITS says.

    So a photograph keeps its side when others come or go. segments: a folder of label images
    <stem>.png (grey levels, one per object, of the photograph's size); where one is missing,
    OpenCV finds objects. Damaged files are left out, and told. Raises UserError for a folder
    that is none, fewer than two photographs in the split, label images none of which belongs to a
    photograph.
    """
    found, (low, high) = _pictures(folder, "--photographs"), SPLITS[split]
    shares = [int(sha256_of(f"split/{path.stem}".encode())[:8], 16) / 2**32 for path in found]
    ranked = sorted(zip(shares, found, strict=True))
    pictures = tuple(
        _readable([path for share, path in ranked if low <= share < high], "--photographs")
    )
    if len(pictures) < 2:
        raise UserError(
            f"--photographs {folder}: {len(pictures)} of its {len(found)} photographs belong to "
            f"--split {split}; expected at least 2 there, so give it more photographs"
        )
    labels = {} if segments is None else {p.stem: p for p in _pictures(segments, "--segments")}
    if segments is not None and not any(path.stem in labels for path in found):
        raise UserError(
            f"--segments {segments}: none of its {len(labels)} pictures is named as a photograph "
            f"of {folder}; expected <stem>.png, for instance {found[0].stem}.png"
        )
    own = _readable([labels[p.stem] for p in pictures if p.stem in labels], "--segments")
    return Library(pictures, {path.stem: path for path in own}, split)


def _readable(pictures: list[Path], flag: str) -> list[Path]:
    """Those that can be decoded; stderr has the number of the others, and the first."""

    def damage(path: Path) -> str:
        try:
            read_image(path)
            return ""
        except UnreadableImage as error:
            return str(error)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        look = {"desc": f"checking {flag}", "unit": "pictures", "leave": False}
        found = list(ProgressBar(pool.map(damage, pictures), total=len(pictures), **look))
    if bad := [text for text in found if text]:
        print(f"{flag}: {len(bad)} left out, for instance {bad[0]}", file=sys.stderr)
    return [path for path, text in zip(pictures, found, strict=True) if not text]


def installed_photographs() -> list[Path]:
    """Two real photographs that come with scikit-learn."""
    folder = Path(str(files("sklearn.datasets"))) / "images"
    return [folder / "china.jpg", folder / "flower.jpg"]


def one_of_each_kind(seed: int, size: int) -> list[Example]:
    """Made from the installed photographs: an authentic picture and a forgery of each kind."""
    library = Library(tuple(installed_photographs()), {}, "train")
    first = {forged_kind_of(seed, number): number for number in reversed(range(40))}
    return [photograph_example(library, seed, number, size) for number in sorted(first.values())]


def _pictures(folder: str | Path, flag: str) -> list[Path]:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{flag} {folder}: no such folder; expected one of pictures")
    pictures, others = list_pictures(path)
    if others:
        text = f"{len(others)} left out, for instance {others[0][0].name!r}: {others[0][1]}"
        print(f"{flag}: {text}", file=sys.stderr)
    return pictures


def forged_kind_of(seed: int, number: int, world: str = "interior") -> str:
    """What picture `number` is: "authentic" for even numbers, else by ODDS or the world's copy."""
    if number % 2 == 0 or world == "copy-move":
        return examples.kind_of(seed, number, world)
    return str(stream(seed, number, 4).choice(list(ODDS), p=list(ODDS.values())))


def _chosen(library: Library, seed: int, number: int) -> tuple[Path, Path]:
    """The photographs, target and donor, of picture `number`; they differ."""
    groups = max(1, min(_GROUPS, len(library.pictures) // _GROUP_SIZE))
    turn, group = divmod(number // 2, groups)
    members = library.pictures[group::groups]
    order = stream(seed, group, 5).permutation(len(members))
    step = int(stream(seed, number, 6).integers(1, len(members)))
    return tuple(members[order[(turn + k) % len(members)]] for k in (0, step))


def photograph_example(
    library: Library, seed: int, number: int, size: int = 256, world: str = "interior"
) -> Example:
    """Picture `number` of the endless set `seed` of a library, its longer side `size` pixels.

    Even numbers are authentic, odd ones tampered, each with the crop, edits and saves of the one
    before. world: "interior", all kinds, or "copy-move", `hard_copy_move` in the finished crop.
    """
    pair = number - number % 2
    if world == "copy-move":
        crop = decode_image(photograph_example(library, seed, pair, size).jpeg, "photograph")
        return examples.hard_copy_move(stream(seed, pair, 7), crop, number > pair, COPIES)
    rng = stream(seed, pair, 1)
    longer = round(size / draw_shrink(rng))
    kind, (path, other) = forged_kind_of(seed, number), _chosen(library, seed, number)
    target = _view(rng, library, path, longer, kind in ("copy-move", "removal"))
    picture, mask = target.picture, None
    if kind == "removal":
        picture, mask = forgeries.remove(rng, target)
    elif kind != "authentic":
        donor = _view(rng, library, other, longer, True) if kind == "splicing" else target
        turn = partial(forgeries.half_turned, rng, 0.7, 1.4, 30)
        pastes = [  # Cubic, as editors do: linear interpolation would smooth the whole file.
            forgeries.draw_paste(rng, donor, target, turn, 0.9, cv2.INTER_CUBIC)
            for _ in range(CANDIDATES)
        ]
        above, mask = max(pastes, key=lambda paste: forgeries.outline_step(picture, *paste))
        # Hard as scissors cut, or slightly softened as an editor's brush does.
        if rng.random() < 0.6:
            picture = np.where(mask[..., None] > 0, above, picture)
        else:
            picture = forgeries.blend(picture, above, mask, rng.uniform(0.4, 1.0))
    jpeg, mask = finish(stream(seed, pair, 2), picture, mask, size)
    return Example(jpeg, mask, kind)


def forged_sources_of(
    library: Library, seed: int, number: int, world: str = "interior"
) -> tuple[str, ...]:
    """The crop, which a pair has to itself, and the photographs that picture `number` is of."""
    count = 2 if forged_kind_of(seed, number, world) == "splicing" else 1
    names = [path.name for path in _chosen(library, seed, number)[:count]]
    return (f"{names[0]}#{number // 2}", *names)


def _view(
    rng: Generator, library: Library, path: Path, longer: int, objects: bool
) -> forgeries.Source:
    """A random crop of a photograph, perhaps mirrored, resized; with its objects if asked for."""
    picture = read_image(path)
    height, width = picture.shape[:2]
    label_file = library.segments.get(path.stem) if objects else None
    labels = read_levels(label_file) if label_file else None
    if labels is not None and labels.shape != (height, width):
        raise UserError(
            f"{label_file}: {labels.shape[1]} x {labels.shape[0]} pixels, but its photograph has "
            f"{width} x {height}; expected the same size"
        )
    # Near its own scale, at which its own traces are left; yet wide enough to show objects.
    share = min(max(longer / (rng.uniform(0.8, 1) * max(height, width)), 0.25), 1.0)
    tall, wide = (min(max(2, round(share * side)), side) for side in (height, width))
    tall, wide = min(tall, 4 * wide), min(wide, 4 * tall)  # A strip has no room for regions.
    y, x = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    window = np.s_[y : y + tall, x : x + wide]
    mirror = slice(None, None, -1 if rng.random() < 0.5 else 1)
    scale = longer / max(tall, wide)
    shape = (max(2, round(scale * wide)), max(2, round(scale * tall)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(picture[window][:, mirror], shape, interpolation=how)
    if labels is not None:
        labels = cv2.resize(labels[window][:, mirror], shape, interpolation=cv2.INTER_NEAREST)
    elif objects:
        labels = find_segments(picture)
    return forgeries.Source(picture, [] if labels is None else _objects(labels))


def find_segments(picture: np.ndarray) -> np.ndarray:
    """Labels, int32 [H, W], of the even-coloured areas of a picture, uint8 [H, W, 3]; 0: none.

    Mean shift evens out texture; areas away from its edges are grown back to them by watershed.
    """
    smooth = cv2.pyrMeanShiftFiltering(picture, 8, 24)
    edges = cv2.Canny(smooth, 30, 80, L2gradient=True)
    distance = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
    cores = (distance > max(2, 0.015 * max(picture.shape[:2]))).astype(np.uint8)
    return np.maximum(cv2.watershed(smooth, cv2.connectedComponents(cores)[1]), 0)


def _objects(labels: np.ndarray) -> list[np.ndarray]:
    """Masks, uint8 [H, W], of the labelled areas of a size worth cutting out, holes filled."""
    masks = []
    for label in np.unique(labels[labels > 0]):
        area = (labels == label).astype(np.uint8)
        outlines = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        largest = max(outlines, key=cv2.contourArea)
        mask = cv2.drawContours(np.zeros_like(area), [largest], 0, 255, -1)
        if forgeries.fits(mask):
            masks.append(mask)
    return masks
