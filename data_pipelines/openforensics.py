"""Reads OpenForensics as it is distributed: pictures, and their annotations in one JSON file."""

import json
import math
from collections import defaultdict
from pathlib import Path, PureWindowsPath
from typing import Any

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing, Outlines, existing_root, is_file
from sapl_jax.errors import UserError


def read_openforensics(root: str | Path) -> Listing:
    """Lists one part of OpenForensics from its annotations, such as `Test-Challenge_poly.json`.

    root: that file, or a folder with one such file. A picture with any fake face is tampered, and
    the outlines of its fake faces are its mask. Names in the file begin with `Images/<part>/`;
    pictures are looked for there, in `<part>/`, and beside the file. Faces count by the name of
    their category, not its number. Raises UserError for a file that holds something else, a folder
    with none or several, or where no picture is there.
    """
    table = _annotations_of(Path(root).expanduser())
    part = table.stem.removesuffix("_poly")
    folders = [table.parent / folder for folder in (f"Images/{part}", f"{part}/{part}", part, "")]
    listing = Listing("openforensics", table.parent, samples=[])
    for file_name, are_fake, outlines in _annotated(table):
        name = PureWindowsPath(file_name).name  # which splits at "/" and at "\"
        path = next((folder / name for folder in folders if is_file(folder / name)), None)
        if path is None:
            reason = "in the annotations, but there is no such file"
            listing.skipped.append((Path(file_name), reason))
        elif not are_fake:
            reason = "no face in it is annotated, so nothing tells its class"
            listing.skipped.append((path, reason))
        elif outlines.polygons:
            listing.add(path, TAMPERED, table, mask_style=outlines)
        else:
            listing.add(path, TAMPERED if any(are_fake) else AUTHENTIC)
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


def _annotated(table: Path) -> list[tuple[str, list[bool], Outlines]]:
    """Per picture: its file name, whether each face is fake, the outlines of those that are."""
    pictures = []
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        fake = {kind["id"] for kind in content["categories"] if "fake" in kind["name"].lower()}
        faces: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for face in content["annotations"]:
            faces[face["image_id"]].append(face)
        for name, row in {str(row["file_name"]): row for row in content["images"]}.items():
            are_fake = [face["category_id"] in fake for face in faces[row["id"]]]
            polygons = (
                tuple(map(float, polygon))
                for face in faces[row["id"]]
                if face["category_id"] in fake
                for polygon in _polygons(face)
            )
            size = (int(row["height"]), int(row["width"]))
            pictures.append((name, are_fake, Outlines(size, tuple(polygons))))
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
    return pictures


def _polygons(face: dict[str, Any]) -> list[list[float]]:
    """The polygons of a face that have corners; none where its outline is of another form."""
    outline = face["segmentation"]
    polygons = outline if isinstance(outline, list) else []
    return [
        polygon
        for polygon in polygons
        if len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(math.isfinite, polygon))
    ]
