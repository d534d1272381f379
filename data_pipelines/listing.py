"""What a data set holds: its samples, what was skipped and why, and how a tree is listed."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from re import Match
from typing import Any

from sapl_jax.errors import UserError

AUTHENTIC, TAMPERED = 0, 1
LABEL_NAMES = ("authentic", "tampered")
PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp")
)
_NO_PICTURES = ("thumbs.db", "desktop.ini", "_list.txt")  # Windows', and CASIA v2.0's own lists


@dataclass(frozen=True)
class Outlines:
    """Tampered regions as polygons, which some sets have instead of mask pictures.

    All numbers are pixels of the picture they were drawn on.
    """

    size: tuple[int, int]  # height, width
    polygons: tuple[tuple[float, ...], ...]  # x and y of each corner in turn


@dataclass(frozen=True)
class Sample:
    """One picture of a data set.

    name: path below the root with "/" between folders, unique in the listing.
    label: AUTHENTIC (0) or TAMPERED (1).
    mask: file of the pixel-level truth, or None. Listing never opens it.
    sources: scenes that the picture shows, where names tell; a split never parts those that share.
    mask_style: a style of `data_pipelines.masks`, or what `mask` draws, where it is no picture.
    """

    name: str
    image: Path
    label: int
    mask: Path | None = None
    sources: tuple[str, ...] = ()
    mask_style: str | Outlines = "white"


@dataclass
class Listing:
    """A data set as found, samples sorted by name. UserError where the root is no folder."""

    name: str
    root: Path
    samples: list[Sample] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = existing_root(self.root)

    def count(self, label: int) -> int:
        """Number of samples with this label."""
        return sum(sample.label == label for sample in self.samples)

    def folder(self, *names: str, below: Path | None = None) -> Path | None:
        """The first folder of `names`, in any case, directly below the root or another folder."""
        entries = sorted((below or self.root).iterdir())
        there = {entry.name.lower(): entry for entry in entries if entry.is_dir()}
        return next((there[name.lower()] for name in names if name.lower() in there), None)

    def add(
        self, path: Path, label: int, mask: Path | None = None, name: str = "", **more: Any
    ) -> None:
        """Adds a sample, named by its path below the root; an authentic picture gets no mask."""
        name = name or path.relative_to(self.root).as_posix()
        self.samples.append(Sample(name, path, label, mask if label else None, **more))

    def pictures_in(self, folder: Path | None, passing_over: str = "") -> list[Path]:
        """Pictures directly in a folder. All else but `passing_over`, in lower case, is skipped."""
        pictures, others = list_pictures(folder) if folder else ([], [])
        self.skipped += [entry for entry in others if entry[0].name.lower() != passing_over]
        return pictures

    def all_pictures(self) -> list[Path]:
        """Picture files anywhere below the root."""
        paths = sorted(map(Path, walk_files(self.root)))
        return [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]

    def named(self, folder: Path | None, pattern: str, names: str) -> Iterator[tuple[Path, Match]]:
        """Pictures in a folder whose stem is like `pattern`; others are skipped, not of `names`."""
        for path in self.pictures_in(folder):
            if found := re.fullmatch(pattern, path.stem, re.IGNORECASE | re.DOTALL):
                yield path, found
            else:
                self.skipped.append((path, f"not a name of {names}"))

    def masks_in(self, folder: Path | None, ending: str = "_gt") -> dict[str, Path]:
        """Mask files `<stem><ending>.<suffix>` of a folder, by the stem of their picture.

        A digit may follow the ending, as in CASIA's `_gt3`. png is preferred among several masks.
        """
        masks: dict[str, Path] = {}
        for path in list_pictures(folder)[0] if folder else ():
            if found := re.fullmatch(rf"(.+){ending}\d?", path.stem, re.IGNORECASE):
                other = masks.setdefault(found[1], path)
                if path.suffix.lower() == ".png" != other.suffix.lower():
                    masks[found[1]] = path
        return masks

    def pair_by_number(self, stems: Iterable[str], masks: dict[str, Path]) -> None:
        """Adds to `masks` those of pictures that have another name, by CASIA's serial number.

        Copies of the sets disagree on D (splicing) and S (copy-move), the order of sources, dots.
        Paired are a picture and a mask left over that alone share the number; a note counts them.
        """
        without: dict[str | None, list[str]] = defaultdict(list)
        left: dict[str | None, list[str]] = defaultdict(list)
        for stem in set(stems) ^ masks.keys():
            (left if stem in masks else without)[trailing_number(stem)].append(stem)
        numbers = [n for n in without if n and len(without[n]) == len(left.get(n, ())) == 1]
        masks.update({without[number][0]: masks[left[number][0]] for number in numbers})
        if numbers:
            self.notes.append(
                f"{len(numbers)} masks have another name than their picture (older copies swap D "
                "and S or the two sources) and were paired by their serial number"
            )

    def finished(self, expected: str) -> "Listing":
        """Sorts the samples. UserError where there are none: `expected` is what a root holds."""
        if not self.samples:
            seen = "; {}: {}".format(*self.skipped[0]) if self.skipped else ""
            raise UserError(f"{self.root}: no picture of {self.name}; expected {expected}{seen}")
        self.samples.sort(key=lambda sample: sample.name)
        return self


def existing_root(root: str | Path) -> Path:
    """The root of a data set as a Path. Raises UserError unless it is a folder."""
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"no data set at {path}: the folder does not exist; check the path")
    if not path.is_dir():
        raise UserError(f"no data set at {path}: that is a file, expected a folder")
    return path


def walk_files(
    root: str | Path, barred: str | None = None, on_error: Callable[[OSError], None] | None = None
) -> Iterator[str]:
    """Paths of all files below a folder, sorted within folders, behind links too.

    Each folder is walked once, even in a loop of links. Hidden files and folders are passed over,
    and so is the folder whose real path is `barred`.
    """
    visited = set()
    for folder, folders, names in os.walk(root, onerror=on_error, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited or (barred and Path(real).is_relative_to(barred)):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(folder, name)


def list_pictures(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Picture files directly in `folder`, sorted by name, and (other file, reason) pairs.

    Hidden files and `_NO_PICTURES` are passed over. A name that is no text is told escaped.
    """
    pictures, others = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _NO_PICTURES:
            continue
        text = path.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        if path.name != text:
            others.append((path.with_name(text), "its name is not UTF-8; rename it"))
        elif path.is_dir():
            others.append((path, "a folder; pictures are only looked for one level deep"))
        elif not path.is_file():
            others.append((path, "a link to nothing, or no regular file"))
        elif path.suffix.lower() not in PICTURE_SUFFIXES:
            others.append((path, f"not a picture file ({path.suffix or 'no extension'})"))
        else:
            pictures.append(path)
    return pictures, others


def trailing_number(stem: str) -> str | None:
    """The digits after the last underscore or dot of a stem, CASIA's serial number, or None."""
    found = re.search(r"[_.](\d+)$", stem)
    return found.group(1) if found else None
