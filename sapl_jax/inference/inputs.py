"""Finds the picture files that paths, folders and globs on a command line mean."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.listing import PICTURE_SUFFIXES, walk_files
from sapl_jax.errors import UserError

SUFFIXES = PICTURE_SUFFIXES | {".webp"}
_GLOB = frozenset("*?[")


@dataclass
class Found:
    """What a command line means.

    Attributes:
        pictures: absolute paths, each file once, in the order given and sorted within folders.
        skipped: (path, reason) of what was named but cannot be used.
        others: files in folders that are not named like pictures.
    """

    pictures: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0


def find_pictures(specifications: Sequence[str], leave_out: Path | None = None) -> Found:
    """Resolves files, folders (with all below them) and glob patterns.

    A file that is named itself is taken whatever its name; in folders, picture names only. Hidden
    files and folders are passed over. Links are followed, loops of them end.

    Args:
        specifications: paths; one that does not exist and has *, ? or [ is a pattern.
        leave_out: a folder whose files are never taken: the output may lie inside the input.

    Raises:
        UserError: no picture at all.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    barred = os.path.realpath(leave_out) if leave_out is not None else None
    for text in specifications:
        paths = [text]
        if not os.path.lexists(text) and _GLOB.intersection(text):
            paths = sorted(glob.glob(text, recursive=True))
            if not paths:
                found.skipped.append((Path(text), "no file has a name of this pattern"))
        for path in paths:
            for file, named in _files(path, barred, found):
                _take(file, named, found, seen)
    if not found.pictures:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in found.skipped[:5])
        raise UserError(
            f"No pictures were found in {', '.join(map(repr, specifications))}. Expected files or "
            f"folders of {', '.join(sorted(SUFFIXES))}.{reasons}"
        )
    return found


def _files(path: str, barred: str | None, found: Found) -> Iterator[tuple[str, bool]]:
    """(file, whether it was named itself) of one path."""
    if not os.path.isdir(path):
        yield path, True
        return

    def report(error: OSError) -> None:
        found.skipped.append((Path(error.filename), f"cannot be listed ({error.strerror})"))

    for file in walk_files(path, barred, report):
        yield file, False


def _take(file: str, named: bool, found: Found, seen: set[tuple[int, int]]) -> None:
    path = Path(os.path.abspath(file))
    if not named and path.suffix.lower() not in SUFFIXES:
        found.others += 1
        return
    try:
        status = os.stat(path)
    except OSError as error:
        found.skipped.append((path, f"cannot be opened ({error.strerror})"))
        return
    if not stat.S_ISREG(status.st_mode):
        found.skipped.append((path, "not a regular file (a device, pipe or socket)"))
        return
    identity = (status.st_dev, status.st_ino)
    if identity not in seen:
        seen.add(identity)
        found.pictures.append(path)
