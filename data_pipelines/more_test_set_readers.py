"""Reads DSO-1, CocoGlide, AutoSplice, OpenForensics and CoMoFoD as they are distributed.

Pictures and masks pair by name or number, never by order. Nothing is opened but OpenForensics'
annotations.
"""

import json
import math
import re
from collections import defaultdict
from pathlib import Path, PureWindowsPath
from typing import Any

from data_pipelines.listing import (
    AUTHENTIC,
    TAMPERED,
    Listing,
    Outlines,
    existing_root,
    find_folder,
    is_file,
    masks_by_stem,
    trailing_number,
)
from sapl_jax.errors import UserError


def read_dso1(root: str | Path) -> Listing:
    """Lists DSO-1 (`tifs-database`): `DSO-1/{normal,splicing}-NN.png`.

    Masks have the picture's name, in `DSO-1-Fake-Images-Masks/`; black = tampered. Raises UserError
    where the root is not a folder or holds no such picture.
    """
    listing = Listing("dso1", existing_root(root), samples=[])
    masks = masks_by_stem(find_folder(listing.root, "DSO-1-Fake-Images-Masks"), "")
    for path in listing.pictures_in(find_folder(listing.root, "DSO-1")):
        kind = path.stem.lower().partition("-")[0]
        if kind == "splicing":
            listing.add(path, TAMPERED, masks.get(path.stem), mask_style="black")
        elif kind == "normal":
            listing.add(path, AUTHENTIC)
        else:
            listing.skipped.append((path, "not a name of DSO-1 (normal-01 or splicing-01)"))
    return listing.finished("DSO-1/ and DSO-1-Fake-Images-Masks/, as in tifs-database")


def read_cocoglide(root: str | Path) -> Listing:
    """Lists CocoGlide: `real/<object>_<id>.png`, `fake/glide_inpainting_val2017_<id>_up.png`.

    The mask of a fake is named like the real picture, `mask/<object>_<id>_mask.png`, so COCO's id
    tells the pair. Raises UserError where the root is not a folder or holds no such picture.
    """
    listing = Listing("cocoglide", existing_root(root), samples=[])
    masks: dict[str | None, list[Path]] = defaultdict(list)
    for stem, mask in masks_by_stem(find_folder(listing.root, "mask"), "_mask").items():
        masks[trailing_number(stem)].append(mask)
    for folder, label in (("real", AUTHENTIC), ("fake", TAMPERED)):
        for path in listing.pictures_in(find_folder(listing.root, folder)):
            number = trailing_number(re.sub("_up$", "", path.stem))
            if number is None:
                listing.skipped.append((path, "not a name of CocoGlide, which ends in COCO's id"))
                continue
            found = masks[number] if label == TAMPERED else []
            listing.add(path, label, found[0] if len(found) == 1 else None, sources=(number,))
    return listing.finished("real/, fake/ and mask/")


def read_autosplice(root: str | Path) -> Listing:
    """Lists AutoSplice: `Authentic/<id>.jpg`, `Forged_JPEG100/<id>_<k>.jpg`, `Mask/<id>_mask.png`.

    All edits of a picture share its mask, where anything but 0 is tampered. Forged_JPEG90 and
    Forged_JPEG75 hold the same edits compressed more: give one of them as the root to read it
    instead. Raises UserError where the root is not a folder or holds no such picture.
    """
    listing = Listing("autosplice", existing_root(root), samples=[])
    forged = find_folder(listing.root, "Forged_JPEG100", "Forged_JPEG90", "Forged_JPEG75")
    if listing.root.name.lower().startswith("forged_jpeg"):
        forged, listing.root = listing.root, listing.root.parent
    masks = masks_by_stem(find_folder(listing.root, "Mask"), "_mask")
    for path in listing.pictures_in(find_folder(listing.root, "Authentic")):
        listing.add(path, AUTHENTIC, sources=(path.stem,))
    for path in listing.pictures_in(forged):
        source = re.sub(r"_\d+$", "", path.stem)
        mask = masks.get(path.stem, masks.get(source))
        listing.add(path, TAMPERED, mask, sources=(source,), mask_style="nonzero")
    if forged:
        listing.notes.append(
            f"forgeries are those of {forged.name}; other Forged_JPEG folders hold the same edits"
        )
    return listing.finished("Authentic/, Forged_JPEG100/ and Mask/")


def read_comofod(root: str | Path) -> Listing:
    """Lists CoMoFoD, a flat folder: `NNN_O.png` authentic, `NNN_F.png` tampered, `NNN_B.png` masks.

    Left out are the coloured masks `NNN_M` and the versions after blurring, noise or compression,
    such as `NNN_F_JC3.jpg`: 24 of each picture. Masks mark the copy and what was copied. Raises
    UserError where the root is not a folder or holds no such picture.
    """
    listing = Listing("comofod", existing_root(root), samples=[])
    masks = masks_by_stem(listing.root, "_B")
    processed = 0
    for path in listing.pictures_in(listing.root):
        found = re.fullmatch(r"(\d+)_([OFBM])(_\w+)?", path.stem, re.IGNORECASE)
        if found is None:
            listing.skipped.append((path, "not a name of CoMoFoD (001_O.png or 001_F.png)"))
        elif found.group(3):
            processed += 1
        elif found.group(2).upper() in "OF":
            tampered = found.group(2).upper() == "F"
            mask = masks.get(found.group(1)) if tampered else None
            listing.add(path, TAMPERED if tampered else AUTHENTIC, mask, sources=(found.group(1),))
    listing.notes.append("masks mark the copied region as well as its copy")
    if processed:
        listing.notes.append(f"{processed} blurred, noisy or compressed versions are left out")
    return listing.finished("001_O.png, 001_F.png and 001_B.png in this folder itself")


def read_openforensics(root: str | Path) -> Listing:
    """Lists one part of OpenForensics from its annotations, such as `Test-Challenge_poly.json`.

    root: that file, or a folder with one such file. A picture with any fake face is tampered, and
    the outlines of its fake faces are its mask. Names in the file begin with `Images/<part>/`;
    pictures are looked for there, in `<part>/`, and beside the file. Faces count by the name of
    their category, not its number. Raises UserError for a file that holds something else, a folder
    with none or several, or where no picture is there.
    """
    table = _annotations_of(Path(root).expanduser())
    listing = Listing("openforensics", table.parent, samples=[])
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        fake = {kind["id"] for kind in content["categories"] if "fake" in kind["name"].lower()}
        faces: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for face in content["annotations"]:
            faces[face["image_id"]].append(face)
        for row in {str(row["file_name"]): row for row in content["images"]}.values():
            regions = [
                tuple(map(float, polygon))
                for face in faces[row["id"]]
                if face["category_id"] in fake
                for polygon in _polygons(face)
            ]
            labels = {face["category_id"] in fake for face in faces[row["id"]]}
            size = (int(row["height"]), int(row["width"]))
            _add_annotated(listing, table, str(row["file_name"]), labels, size, regions)
    except (
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{table}: not annotations of OpenForensics ({type(error).__name__}: {error}). "
            "Expected JSON with categories, images and annotations; copy the file again"
        ) from error
    return listing.finished(f"the pictures that {table.name} lists, in Images/ or beside it")


def _annotations_of(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(existing_root(root).glob("*_poly.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{root}: found {names}; expected one <part>_poly.json of OpenForensics. Give the file "
            "itself as the root"
        )
    return found[0]


def _polygons(face: dict[str, Any]) -> list[list[float]]:
    """The polygons of a face that have corners; none where its outline is of another form."""
    outline = face["segmentation"]
    polygons = outline if isinstance(outline, list) else []
    return [
        polygon
        for polygon in polygons
        if len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(math.isfinite, polygon))
    ]


def _add_annotated(
    listing: Listing,
    table: Path,
    file_name: str,
    labels: set[bool],
    size: tuple[int, int],
    regions: list[tuple[float, ...]],
) -> None:
    part = table.stem.removesuffix("_poly")
    name = PureWindowsPath(file_name).name  # which splits at "/" and at "\"
    folders = [table.parent / folder for folder in (f"Images/{part}", f"{part}/{part}", part, "")]
    path = next((folder / name for folder in folders if is_file(folder / name)), None)
    if path is None:
        listing.skipped.append((Path(file_name), "in the annotations, but there is no such file"))
    elif not labels:
        listing.skipped.append((path, "no face in it is annotated, so nothing tells its class"))
    elif not regions:
        listing.add(path, TAMPERED if any(labels) else AUTHENTIC)
    else:
        listing.add(path, TAMPERED, table, mask_style=Outlines(size, tuple(regions)))
