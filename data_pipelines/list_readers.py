"""Reads data sets given as one file: MVSS-Net's txt, IMDL-BenCo's JSON, OpenForensics' JSON."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from os.path import isfile  # False, too, for names that no file can have
from pathlib import Path, PureWindowsPath
from typing import Any

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing, Outlines, existing_root
from sapl_jax.errors import UserError

# What JSON of another form raises when it is read as annotations.
_MALFORMED = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)
Row = tuple[str, str | None, bool]  # picture, mask, whether it is tampered


def read_mvss_txt(path: Path) -> Listing:
    """Lists a txt file of lines `image mask label`, mask `None` where there is none, label 0 or 1.

    Relative paths are looked for beside the list, in the folder above it, then in the current
    folder. Lines whose files are missing are skipped with the reason. Raises UserError for a file
    that is no such list or none of whose pictures is there.
    """
    return _read_list("mvss_txt", path, _txt_rows)


def read_casia_v1plus(path: Path) -> Listing:
    """Lists CASIA v1.0 "plus" from its MVSS-Net list, `CASIAv1plus.txt` or the folder that has it.

    The list replaces the authentic pictures that CASIA v2.0 shares by ones of Corel.
    """
    path = path / "CASIAv1plus.txt" if path.is_dir() else path
    return _read_list("casia_v1plus", path, _txt_rows)


def read_benco_json(path: Path) -> Listing:
    """Lists an IMDL-BenCo JSON file, `[[image, mask], [image, "Negative"], ...]`.

    "Negative" marks an authentic picture. Paths and errors as for `read_mvss_txt`.
    """
    return _read_list("benco_json", path, _json_rows)


def _json_rows(listing: Listing, path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    pairs = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) for item in row)
        for row in rows
    )
    if not pairs:
        raise UserError(f'{path}: expected [[image, mask], [image, "Negative"], ...]')
    for image, mask in rows:
        yield image, mask, mask != "Negative"


def _txt_rows(listing: Listing, path: Path) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error})") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        rest, _, label = line.rpartition(" ")
        if rest and re.fullmatch("[0-9]{1,9}", label):
            # MVSS-Net counts every label above 0 (its kinds of tampering) as tampered.
            yield *_split_paths(path, rest), int(label) > 0
        elif line:
            listing.skipped.append((path, f"line {number} is not `image mask label`: {line!r}"))


def _split_paths(list_file: Path, text: str) -> tuple[str, str | None]:
    """Splits `image mask`; at the first space between two paths where the picture is a file."""
    if text.endswith(" None"):
        return text.removesuffix(" None").strip(), None
    for space in re.finditer(" ", text):
        if _locate(list_file, text[: space.start()]) is not None:
            return text[: space.start()], text[space.end() :].strip()
    image, _, mask = text.partition(" ")
    return image, mask.strip() or None


def _locate(list_file: Path, name: str) -> Path | None:
    folders = (list_file.parent, list_file.parent.parent, Path())
    return next((folder / name for folder in folders if isfile(folder / name)), None)


def _read_list(name: str, path: Path, rows: Callable[[Listing, Path], Iterator[Row]]) -> Listing:
    """Lists the pictures of `rows`, which may skip lines; each name once."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise UserError(f"no list at {path}: it is {what}, expected a list file")
    listing, again = Listing(name, path.parent), []
    names = set()
    for image, mask, tampered in rows(listing, path):
        found = _locate(path, image)
        if found is None:
            listing.skipped.append((Path(image), "in the list, but there is no such file"))
            continue
        style = "columbia" if mask is not None and "_edgemask" in Path(mask).name else "white"
        file = _locate(path, mask) if mask is not None and tampered else None
        if mask is not None and tampered and file is None:
            listing.notes.append(f"{image}: its mask {mask} is not there, so it counts without one")
        label, name = TAMPERED if tampered else AUTHENTIC, Path(image).as_posix()
        if name in names:
            again.append((found, "listed a second time"))
        else:
            listing.add(found, label, file, name, mask_style=style)
        names.add(name)
    if not names:
        first = (why if what == path else what for what, why in listing.skipped[:1])
        missing = "".join(f", for instance {reason}" for reason in first)
        raise UserError(
            f"{path}: none of the pictures it lists is there{missing}; relative paths are looked "
            f"for in {path.parent}, {path.parent.parent} and {Path.cwd()}"
        )
    listing.skipped += again
    return listing.finished("pictures")


def read_openforensics(root: Path) -> Listing:
    """Lists one part of OpenForensics from its annotations, such as `Test-Challenge_poly.json`.

    root: that file, or a folder with one such file. A picture with any fake face is tampered, and
    the outlines of its fake faces are its mask; faces count by the name of their category. Pictures
    are looked for in `Images/<part>/`, in `<part>/`, and beside the file. Raises UserError for a
    file that holds something else, a folder with none or several, or where no picture is there.
    """
    tables = [root] if root.is_file() else sorted(existing_root(root).glob("*_poly.json"))
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise UserError(
            f"{root}: found {names}; expected one <part>_poly.json of OpenForensics. Give the file "
            "itself as the root"
        )
    table = tables[0]
    part = table.stem.removesuffix("_poly")
    folders = [table.parent / folder for folder in (f"Images/{part}", f"{part}/{part}", part, "")]
    listing = Listing("openforensics", table.parent)
    for file_name, are_fake, outlines in _annotated(table):
        name = PureWindowsPath(file_name).name  # which splits at "/" and at "\"
        path = next((folder / name for folder in folders if isfile(folder / name)), None)
        if path is None:
            reason = "in the annotations, but there is no such file"
            listing.skipped.append((Path(file_name), reason))
        elif not are_fake:
            listing.skipped.append((path, "no face in it is annotated, so nothing tells its class"))
        elif outlines.polygons:
            listing.add(path, TAMPERED, table, mask_style=outlines)
        else:
            listing.add(path, TAMPERED if any(are_fake) else AUTHENTIC)
    return listing.finished(f"the pictures that {table.name} lists, in Images/ or beside it")


def _annotated(table: Path) -> list[tuple[str, list[bool], Outlines]]:
    """Per picture: its file name, whether each face is fake, the outlines of those that are."""
    pictures = []
    try:
        content = json.loads(table.read_text(encoding="utf-8-sig"))
        fake = {kind["id"] for kind in content["categories"] if "fake" in kind["name"].lower()}
        faces: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for face in content["annotations"]:
            faces[face["image_id"]].append(face)
        for name, row in {str(row["file_name"]): row for row in content["images"]}.items():
            are_fake = [face["category_id"] in fake for face in faces[row["id"]]]
            forms = [f["segmentation"] for f in faces[row["id"]] if f["category_id"] in fake]
            polygons = tuple(
                tuple(map(float, polygon))
                for form in forms
                if isinstance(form, list)  # outlines of another form are passed over
                for polygon in form
                if len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(math.isfinite, polygon))
            )
            size = (int(row["height"]), int(row["width"]))
            pictures.append((name, are_fake, Outlines(size, polygons)))
    except _MALFORMED as error:
        raise UserError(
            f"{table}: not annotations of OpenForensics ({type(error).__name__}: {error}). "
            "Expected JSON with categories, images and annotations; copy the file again"
        ) from error
    return pictures
