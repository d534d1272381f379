"""Reads data sets given as list files: MVSS-Net's txt and IMDL-BenCo's JSON."""

import json
import re
from pathlib import Path

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing, Sample, is_file
from sapl_jax.errors import UserError

CASIA_V1PLUS_LIST = "CASIAv1plus.txt"


def read_mvss_txt(path: str | Path) -> Listing:
    """Lists a txt file of lines `image mask label`, mask `None` where there is none, label 0 or 1.

    Relative paths are looked for beside the list, in the folder above it, then in the current
    folder. Lines whose files are missing are skipped with the reason. Raises UserError for a file
    that is no such list or none of whose pictures is there.
    """
    return _read_txt("mvss_txt", _existing_file(path))


def read_casia_v1plus(path: str | Path) -> Listing:
    """Lists CASIA v1.0 "plus" from its MVSS-Net list, `CASIAv1plus.txt` or the folder that has it.

    The list replaces the authentic pictures that CASIA v2.0 shares by ones of Corel.
    """
    path = Path(path).expanduser()
    list_file = path / CASIA_V1PLUS_LIST if path.is_dir() else path
    return _read_txt("casia_v1plus", _existing_file(list_file))


def read_benco_json(path: str | Path) -> Listing:
    """Lists an IMDL-BenCo JSON file, `[[image, mask], [image, "Negative"], ...]`.

    "Negative" marks an authentic picture. Paths and errors as for `read_mvss_txt`.
    """
    path = _existing_file(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    pairs = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) for item in row)
        for row in rows
    )
    if not pairs:
        raise UserError(f'{path}: expected [[image, mask], [image, "Negative"], ...]')
    listing = Listing("benco_json", path.parent, samples=[])
    for image, mask in rows:
        if mask == "Negative":
            _add(listing, path, image, None, AUTHENTIC)
        else:
            _add(listing, path, image, mask, TAMPERED)
    return _finished(listing, path)


def _read_txt(name: str, path: Path) -> Listing:
    listing = Listing(name, path.parent, samples=[])
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        rest, _, label = line.strip().rpartition(" ")
        if not rest or not re.fullmatch("[0-9]{1,9}", label):
            reason = f"line {number} is not `image mask label`: {line.strip()!r}"
            listing.skipped.append((path, reason))
            continue
        image, mask = _split_paths(path, rest)
        # MVSS-Net counts every label above 0 (its kinds of tampering) as tampered.
        _add(listing, path, image, mask, TAMPERED if int(label) > 0 else AUTHENTIC)
    return _finished(listing, path)


def _split_paths(list_file: Path, text: str) -> tuple[str, str | None]:
    """Splits `image mask`; at the first space between two paths where the picture is a file."""
    if text.endswith(" None"):
        return text.removesuffix(" None").strip(), None
    spaces = [at for at, character in enumerate(text) if character == " "]
    for at in spaces:
        if _locate(list_file, text[:at]) is not None:
            return text[:at], text[at + 1 :].strip()
    image, _, mask = text.partition(" ")
    return image, mask.strip() or None


def _add(listing: Listing, list_file: Path, image: str, mask: str | None, label: int) -> None:
    found = _locate(list_file, image)
    if found is None:
        listing.skipped.append((Path(image), "in the list, but there is no such file"))
        return
    name = Path(image).as_posix()
    mask_file = _locate(list_file, mask) if mask is not None and label == TAMPERED else None
    if mask is not None and label == TAMPERED and mask_file is None:
        listing.notes.append(f"{image}: its mask {mask} is not there, so it counts without one")
    style = "columbia" if mask is not None and "_edgemask" in Path(mask).name else "white"
    listing.samples.append(Sample(name, found, label, mask_file, (), style))


def _locate(list_file: Path, name: str) -> Path | None:
    path = Path(name)
    for folder in (list_file.parent, list_file.parent.parent, Path()):
        if is_file(folder / path):
            return folder / path
    return None


def _existing_file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise UserError(f"no list at {path}: it is {what}, expected a list file")
    return path


def _finished(listing: Listing, path: Path) -> Listing:
    if not listing.samples:
        missing = f", for instance {listing.skipped[0][0]}" if listing.skipped else ""
        raise UserError(
            f"{path}: none of the pictures it lists is there{missing}; relative paths are looked "
            f"for in {path.parent}, {path.parent.parent} and {Path.cwd()}"
        )
    unique: dict[str, Sample] = {}
    for sample in listing.samples:
        if sample.name in unique:
            listing.skipped.append((sample.image, "listed a second time"))
        else:
            unique[sample.name] = sample
    listing.samples = sorted(unique.values(), key=lambda sample: sample.name)
    return listing
