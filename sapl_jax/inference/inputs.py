"""Finds the picture files that paths, folders and globs on a command line mean."""

import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.listing import PICTURE_SUFFIXES, walk_files
from sapl_jax.errors import UserError
from sapl_jax.inference.output_folder import ENDINGS, RECORDS

_GLOB = frozenset("*?[")
_MAPS = tuple(f"_{ending}.png" for ending in ENDINGS)
# Pictures, and nothing that is read here: in folders they are named, other files only counted.
_UNREAD = {".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef"}


@dataclass
class Found:
    """What a command line means."""

    # Absolute paths, each file once, in the order given and sorted within folders.
    pictures: list[Path] = field(default_factory=list)
    # (path, reason) of what was named but cannot be used.
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0  # files in folders that are not named like pictures


def find_pictures(specifications: Sequence[str], leave_out: Path | None = None) -> Found:
    """Resolves files, folders (with all below them) and glob patterns.

    A file that is named itself is taken whatever its name; in folders, picture names only. Hidden
    files and folders are passed over. Links are followed, loops end. UserError: no picture at all.

    Args:
        specifications: paths; one that does not exist and has *, ? or [ is a pattern.
        leave_out: the output's folder: left out, as are maps of earlier outputs in folders below.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    barred = os.path.realpath(leave_out) if leave_out is not None else None

    def report(error: OSError) -> None:
        found.skipped.append((Path(error.filename), f"cannot be listed ({error.strerror})"))

    def take(file: str, suffix: str = "") -> None:
        path = Path(os.path.abspath(file))
        try:
            status = os.stat(path)
        except OSError as error:
            found.skipped.append((path, f"cannot be opened ({error.strerror})"))
            return
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            found.skipped.append((path, "not a regular file (a device, pipe or socket)"))
        elif identity not in seen:
            seen.add(identity)
            if suffix in _UNREAD:
                reason = f"{suffix} pictures are not read: convert it, to PNG or TIFF"
                found.skipped.append((path, reason))
            else:
                found.pictures.append(path)

    for text in specifications:
        paths = [text]
        if not os.path.lexists(text) and _GLOB.intersection(text):
            paths = sorted(glob.glob(text, recursive=True))
            if not paths:
                found.skipped.append((Path(text), "no file has a name of this pattern"))
            if barred:
                paths = [p for p in paths if not Path(os.path.realpath(p)).is_relative_to(barred)]
        for path in paths:
            if not os.path.isdir(path):
                take(path)
                continue
            for file in walk_files(path, barred, report):
                records = os.path.join(os.path.dirname(file), RECORDS)
                made = file.endswith(_MAPS) and records != os.path.join(path, RECORDS)
                if barred and made and os.path.exists(records):
                    continue
                suffix = os.path.splitext(file)[1].lower()
                if suffix in PICTURE_SUFFIXES or suffix in _UNREAD:
                    take(file, suffix)
                else:
                    found.others += 1
    if not found.pictures:
        other = "; what lies in --output is never read" if barred else ""
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in found.skipped[:5])
        raise UserError(
            f"No pictures were found in {', '.join(map(repr, specifications))}. Expected files or "
            f"folders of {', '.join(sorted(PICTURE_SUFFIXES))}{other}.{reasons}"
        )
    return found
