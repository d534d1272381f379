"""Reads test sets as they are distributed: CASIA v1.0, Columbia, COVERAGE, IMD2020, NIST16.

Pictures and masks pair by stem, never by order. Nothing is opened but NIST16's reference table.
"""

import csv
import re
from pathlib import Path

from data_pipelines.listing import (
    AUTHENTIC,
    PICTURE_SUFFIXES,
    TAMPERED,
    Listing,
    Sample,
    existing_root,
    find_folder,
    is_file,
    list_pictures,
    masks_by_stem,
    walk_files,
)
from sapl_jax.errors import UserError

_CASIA_V1_AUTHENTIC = re.compile(r"au_[a-z]{3}_\d{4}", re.IGNORECASE)
_CASIA_V1_TAMPERED = re.compile(r"sp_[ds]_", re.IGNORECASE)
_CASIA_V2_NAME = re.compile(r"(au_[a-z]{3}_\d{5}$)|(tp_[ds]_)", re.IGNORECASE)
# The one tampered picture for which no mask was ever drawn; published counts (920) leave it out.
_CASIA_V1_NO_MASK = re.compile(r"sp_d_nrn_a_.*_0542", re.IGNORECASE)

NIST16_TABLE = "reference/manipulation/NC2016-manipulation-ref.csv"


def read_casia_v1(root: str | Path) -> Listing:
    """Lists CASIA v1.0 by file names, wherever below the root the folders are.

    `Au_*` is authentic (`Au/`), `Sp_*` tampered (`Sp/` or `Modified Tp/Tp/{CM,Sp}`), and
    `<stem>_gt.png` the mask of `<stem>` (`{CM,Sp}/` of any ground-truth folder). Where a picture
    is there twice, the corrected copy in a "Modified" folder wins. Raises UserError where the root
    is not a folder or holds no such file.
    """
    listing = Listing("casia_v1", existing_root(root), samples=[])
    masks: dict[str, Path] = {}
    pictures: dict[str, Path] = {}
    version_2 = 0
    for path in _pictures_below(listing.root):
        stem = path.stem
        if stem.lower().endswith("_gt"):
            masks.setdefault(stem[: -len("_gt")], path)
        elif _CASIA_V2_NAME.match(stem):
            version_2 += 1
            listing.skipped.append((path, "a name of CASIA v2.0, not of v1.0"))
        elif not (_CASIA_V1_AUTHENTIC.fullmatch(stem) or _CASIA_V1_TAMPERED.match(stem)):
            listing.skipped.append((path, "not a name of CASIA v1.0 (Au_ani_0001 or Sp_D_...)"))
        elif (other := pictures.get(stem)) is None or _modified(path) > _modified(other):
            pictures[stem] = path
            if other is not None:
                listing.skipped.append((other, f"superseded by {path}"))
        else:
            listing.skipped.append((path, f"the same name as {other}, which is used"))
    if not pictures:
        hint = "; these names are CASIA v2.0's, so use casia_v2" if version_2 else ""
        raise UserError(
            f"{listing.root}: found no CASIA v1.0 picture (Au/Au_ani_0001.jpg, Sp/Sp_D_....jpg)"
            f"{hint}"
        )
    for stem, path in pictures.items():
        tampered = bool(_CASIA_V1_TAMPERED.match(stem))
        mask = masks.get(stem) if tampered else None
        if tampered and mask is None and _CASIA_V1_NO_MASK.fullmatch(stem):
            listing.skipped.append((path, "the data set has no mask for it"))
            continue
        _add(listing, path, TAMPERED if tampered else AUTHENTIC, mask)
    return _finished(listing)


def read_columbia(root: str | Path) -> Listing:
    """Lists Columbia: `4cam_auth/`, `4cam_splc/`, masks `4cam_splc/edgemask/<stem>_edgemask.jpg`.

    Raises UserError where the root is not a folder or has neither folder.
    """
    listing = Listing("columbia", existing_root(root), samples=[])
    authentic = find_folder(listing.root, "4cam_auth")
    tampered = find_folder(listing.root, "4cam_splc")
    if authentic is None and tampered is None:
        raise UserError(f"{listing.root}: not Columbia, it has neither 4cam_auth/ nor 4cam_splc/")
    if authentic is not None:
        for path in _pictures_in(authentic, listing, passing_over=("edgemask",)):
            _add(listing, path, AUTHENTIC, None)
    if tampered is not None:
        masks = masks_by_stem(find_folder(tampered, "edgemask"), "_edgemask")
        for path in _pictures_in(tampered, listing, passing_over=("edgemask",)):
            _add(listing, path, TAMPERED, masks.get(path.stem), mask_style="columbia")
    return _finished(listing)


def read_coverage(root: str | Path) -> Listing:
    """Lists COVERAGE: `image/N.tif` authentic, `image/Nt.tif` tampered, `mask/Nforged.tif`.

    Raises UserError where the root is not a folder or has no `image/`.
    """
    listing = Listing("coverage", existing_root(root), samples=[])
    images = find_folder(listing.root, "image")
    if images is None:
        raise UserError(f"{listing.root}: not COVERAGE, it has no folder image/")
    masks = masks_by_stem(find_folder(listing.root, "mask"), "forged")
    for path in _pictures_in(images, listing):
        found = re.fullmatch(r"(\d+)(t?)", path.stem, re.IGNORECASE)
        if found is None:
            listing.skipped.append((path, "not a name of COVERAGE (1.tif or 1t.tif)"))
        elif found.group(2):
            _add(listing, path, TAMPERED, masks.get(found.group(1)), sources=(found.group(1),))
        else:
            _add(listing, path, AUTHENTIC, None, sources=(found.group(1),))
    return _finished(listing)


def read_imd2020(root: str | Path) -> Listing:
    """Lists IMD2020: per scene `<id>/<id>_orig.jpg`, tampered `<x>.jpg|png`, `<x>_mask.png`.

    Raises UserError where the root is not a folder or no scene is found.
    """
    listing = Listing("imd2020", existing_root(root), samples=[])
    for folder in sorted(entry for entry in listing.root.iterdir() if entry.is_dir()):
        masks = masks_by_stem(folder, "_mask")
        for path in _pictures_in(folder, listing):
            if path.stem.lower().endswith("_mask"):
                continue
            if path.stem.lower().endswith("_orig"):
                _add(listing, path, AUTHENTIC, None, sources=(folder.name,))
            elif path.stem in masks:
                mask = masks[path.stem]
                _add(listing, path, TAMPERED, mask, sources=(folder.name,), mask_style="nonzero")
            else:
                listing.skipped.append((path, "neither <id>_orig nor with a <name>_mask.png"))
    if not listing.samples:
        raise UserError(
            f"{listing.root}: not IMD2020, no folder holds <id>_orig.jpg or <name>_mask.png"
        )
    return _finished(listing)


def read_nist16(root: str | Path) -> Listing:
    """Lists the tampered pictures of NIST16 (NC2016) from its reference table.

    The table is `reference/manipulation/NC2016-manipulation-ref.csv`, columns split by "|"; rows
    with `IsTarget` = Y give `ProbeFileName` and `ProbeMaskFileName`, black = tampered. The set is
    for localization: its authentic pictures are near duplicates of each other and are not listed.
    Raises UserError where the root is not a folder, or the table is absent or of other columns.
    """
    listing = Listing("nist16", existing_root(root), samples=[])
    table = listing.root / NIST16_TABLE
    if not table.is_file():
        raise UserError(f"{listing.root}: not NIST16, there is no {NIST16_TABLE}")
    listed: set[str] = set()
    authentic = 0
    for target, name, mask_name in _nist16_rows(table):
        if target != "Y":
            authentic += 1
            continue
        path = listing.root / name
        if name in listed:
            listing.skipped.append((path, "listed a second time in the reference table"))
            continue
        listed.add(name)
        if not path.is_relative_to(listing.root) or not is_file(path):
            listing.skipped.append((path, "in the reference table, but there is no such file"))
            continue
        mask = listing.root / mask_name
        _add(listing, path, TAMPERED, mask if is_file(mask) else None, mask_style="black")
    if not listing.samples:
        raise UserError(f"{table}: none of the tampered pictures it lists is there")
    if authentic:
        listing.notes.append(f"{authentic} rows of authentic pictures are left out")
    return _finished(listing)


def _nist16_rows(table: Path) -> list[tuple[str, ...]]:
    """(IsTarget, ProbeFileName, ProbeMaskFileName) of every row; cells that are absent are ""."""
    wanted = ("IsTarget", "ProbeFileName", "ProbeMaskFileName")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="|")
            missing = [column for column in wanted if column not in (rows.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{table}: no column {', '.join(missing)}; expected a table split by |"
                )
            return [tuple((row[column] or "").strip() for column in wanted) for row in rows]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table}: not a table of text split by | ({error})") from error


def _pictures_below(root: Path) -> list[Path]:
    files = (Path(file) for file in walk_files(root))
    return sorted(path for path in files if path.suffix.lower() in PICTURE_SUFFIXES)


def _pictures_in(folder: Path, listing: Listing, passing_over: tuple[str, ...] = ()) -> list[Path]:
    pictures, others = list_pictures(folder)
    listing.skipped += [
        (path, reason) for path, reason in others if path.name.lower() not in passing_over
    ]
    return pictures


def _modified(path: Path) -> bool:
    return any(part.lower().startswith("modified") for part in path.parts)


def _add(
    listing: Listing,
    path: Path,
    label: int,
    mask: Path | None,
    *,
    sources: tuple[str, ...] = (),
    mask_style: str = "white",
) -> None:
    name = path.relative_to(listing.root).as_posix()
    listing.samples.append(Sample(name, path, label, mask, sources, mask_style))


def _finished(listing: Listing) -> Listing:
    listing.samples.sort(key=lambda sample: sample.name)
    return listing
