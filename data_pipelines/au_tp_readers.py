"""Reads data sets laid out as `Au/` and `Tp/` folders: CASIA v2.0 and your own.

Both raise UserError where the root is not a folder or holds no picture of this layout.
"""

import csv
import re
from pathlib import Path

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from sapl_jax.errors import UserError

_AUTHENTIC_NAME = re.compile(r"au_([a-z]{3})_?(\d+)", re.IGNORECASE)
_TAMPERED_NAME = re.compile(r"tp_[ds]_.*_([a-z]{3}\d{5})_([a-z]{3}\d{5})_\d+", re.IGNORECASE)


def read_folder(root: Path) -> Listing:
    """Lists any `Au/` + `Tp/` tree with optional masks `Gt/<stem>_gt.png`.

    One of the two folders may be missing or empty. Pictures of `Au/` and `Tp/` that have the
    same stem count as two states of one scene.
    """
    return _read("folder", root, ("Gt",))


def read_casia_v2(root: Path) -> Listing:
    """Lists CASIA v2.0: `Au/`, `Tp/`, masks `<stem>_gt.png` in `Gt/` or `CASIA 2 Groundtruth/`.

    Masks pair by exact stem, else by serial number: copies disagree on the D (splicing) or S
    (copy-move) in 99 names. Names of tampered pictures carry the authentic ones, their `sources`.
    Raises UserError where most names are not CASIA's, too.
    """
    listing = _read("casia_v2", root, ("Gt", "CASIA 2 Groundtruth", "CASIA2 Groundtruth"))
    strange = [sample for sample in listing.samples if not casia_sources(sample.image.stem)]
    if 2 * len(strange) > len(listing.samples):
        raise UserError(
            f"{listing.root} is not CASIA v2.0: {len(strange)} of {len(listing.samples)} file "
            f"names do not look like Au_ani_00001 or Tp_D_..._00001 (for instance "
            f"{strange[0].name}). For pictures of your own use --dataset folder"
        )
    return listing


def casia_sources(stem: str) -> tuple[str, ...]:
    """Ids, such as "ani00100", of the authentic pictures behind a CASIA v2.0 name; () if none."""
    if found := _AUTHENTIC_NAME.fullmatch(stem):
        return ((found[1] + found[2]).lower(),)
    if found := _TAMPERED_NAME.fullmatch(stem):
        return tuple(sorted({found[1].lower(), found[2].lower()}))
    return ()


def _read(name: str, root: Path, mask_folders: tuple[str, ...]) -> Listing:
    listing = Listing(name, root)
    authentic, tampered = (listing.pictures_in(listing.folder(name)) for name in ("Au", "Tp"))
    if not authentic and not tampered:
        inner = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
        hint = (
            f" (folders found: {', '.join(entry.name for entry in inner[:8]) or 'none'}). Expected "
            "Au/ with authentic and Tp/ with tampered pictures (jpg, png, bmp, tif)"
        )
        if nested := [entry for entry in inner if listing.folder("Au", "Tp", below=entry)]:
            hint = f"; {nested[0]} has such folders, did you mean that?"
        raise UserError(f"{root}: found no picture in Au/ or Tp/ here{hint}")
    masks = listing.masks_in(listing.folder(*mask_folders))
    if name == "casia_v2":
        listing.pair_by_number((path.stem for path in tampered), masks)
    known = _generated_sources(root) if name == "folder" else {}
    for label, paths in ((AUTHENTIC, authentic), (TAMPERED, tampered)):
        for path in paths:
            sources = known.get(path.relative_to(root).as_posix(), (path.stem,))
            if name == "casia_v2":
                sources = casia_sources(path.stem)
            listing.add(path, label, masks.get(path.stem), sources=sources)
    return listing.finished("Au/ and Tp/")


def _generated_sources(root: Path) -> dict[str, tuple[str, ...]]:
    """Sources by picture from the table that the generator writes; none where it is not there."""
    if not (root / "generator.json").is_file() or not (root / "sources.csv").is_file():
        return {}
    with open(root / "sources.csv", newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if row.get("picture") and row.get("sources")]
    return {row["picture"]: tuple(row["sources"].split("/")) for row in rows}
