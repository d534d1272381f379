"""Reads data sets from folders as they are distributed, each in its own layout, and your own.

Pictures and masks pair by name or number, never by order. Nothing is opened but NIST16's reference
table and the generator's. All raise UserError where the root holds no picture of the set.
"""

import csv
import re
from collections import Counter, defaultdict
from os.path import isfile  # False, too, for names that no file can have
from pathlib import Path

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing, list_pictures, trailing_number
from sapl_jax.errors import UserError

_CASIA_V2_AUTHENTIC = re.compile(r"au_([a-z]{3})_?(\d+)", re.IGNORECASE)
_CASIA_V2_TAMPERED = re.compile(r"tp_[ds]_.*_([a-z]{3}\d{5})_([a-z]{3}\d{5})_\d+", re.IGNORECASE)
_CASIA_V1_AUTHENTIC = re.compile(r"au_[a-z]{3}_\d{4}", re.IGNORECASE)
_CASIA_V1_TAMPERED = re.compile(r"sp_[ds]_.*\d", re.IGNORECASE)
_CASIA_V2_NAME = re.compile(r"(au_[a-z]{3}_\d{5}$)|(tp_[ds]_)", re.IGNORECASE)
# The one tampered picture for which no mask was ever drawn; published counts (920) leave it out.
_CASIA_V1_NO_MASK = re.compile(r"sp_d_nrn_a_.*_0542", re.IGNORECASE)

NIST16_TABLE = "reference/manipulation/NC2016-manipulation-ref.csv"


def read_folder(root: Path) -> Listing:
    """Lists any `Au/` + `Tp/` tree with optional masks `Gt/<stem>_gt.png`.

    One of the two folders may be missing or empty. Pictures of `Au/` and `Tp/` that have the
    same stem count as two states of one scene.
    """
    return _read_au_tp("folder", root, ("Gt",))


def read_casia_v2(root: Path) -> Listing:
    """Lists CASIA v2.0: `Au/`, `Tp/`, masks `<stem>_gt.png` in `Gt/` or `CASIA 2 Groundtruth/`.

    Masks pair by exact stem, else by serial number: copies disagree on the D (splicing) or S
    (copy-move) in 99 names. Names of tampered pictures carry the authentic ones, their `sources`.
    Raises UserError where most names are not CASIA's, too.
    """
    masks = ("CASIA 2 Groundtruth", "CASIA2 Groundtruth", "CASIA2.0_Groundtruth", "Groundtruth")
    listing = _read_au_tp("casia_v2", root, ("Gt", *masks))
    strange = [sample for sample in listing.samples if not casia_sources(sample.image.stem)]
    if 2 * len(strange) > len(listing.samples):
        raise UserError(
            f"{listing.root} is not CASIA v2.0: {len(strange)} of {len(listing.samples)} file "
            f"names do not look like Au_ani_00001 or Tp_D_..._00001 (for instance "
            f"{strange[0].name}). For pictures of your own use --dataset folder, and in training "
            "--config.data.dataset=folder"
        )
    return listing


def casia_sources(stem: str) -> tuple[str, ...]:
    """Ids, such as "ani00100", of the authentic pictures behind a CASIA v2.0 name; () if none.

    The first one's picture was changed. So it was in 35 of 36 splices that lie beside both, and the
    second's, which gave the object, in none of 43.
    """
    if found := _CASIA_V2_AUTHENTIC.fullmatch(stem):
        return ((found[1] + found[2]).lower(),)
    if found := _CASIA_V2_TAMPERED.fullmatch(stem):
        return tuple(dict.fromkeys((found[1].lower(), found[2].lower())))
    return ()


def _read_au_tp(name: str, root: Path, mask_folders: tuple[str, ...]) -> Listing:
    listing = Listing(name, root)
    authentic, tampered = (listing.pictures_in(listing.folder(name)) for name in ("Au", "Tp"))
    if not authentic and not tampered:
        inner = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
        hint = (
            f" (folders found: {', '.join(entry.name for entry in inner[:8]) or 'none'}). Expected "
            "Au/ with authentic and Tp/ with tampered pictures (jpg, png, bmp, tif, webp)"
        )
        nested = [entry for entry in inner if listing.folder("Au", "Tp", below=entry)]
        if nested and nested[0].name.lower() not in ("au", "tp"):
            hint = f"; {nested[0]} has such folders, did you mean that?"
        raise UserError(f"{root}: found no picture in Au/ or Tp/ here{hint}")
    folder = listing.folder(*mask_folders)
    if name == "casia_v2" and not folder:  # unpacked beside CASIA2.0_revised/
        beside = listing.root.resolve().parent / "CASIA2.0_Groundtruth"
        folder = beside if beside.is_dir() else None
    masks = listing.masks_in(folder)
    if name == "casia_v2":
        listing.pair_by_number((path.stem for path in tampered), masks)
    unused = masks.keys().isdisjoint(path.stem for path in tampered)
    if folder and unused and (others := list_pictures(folder)[0]):
        wanted = "where <stem>_gt.png is looked for, of pictures in Tp/: no mask is used"
        listing.notes.append(f"{folder} holds {others[0].name}, {wanted}")
    stems = Counter(path.stem for path in tampered)
    if shared := [stem for stem in masks if stems[stem] > 1]:
        text = "pictures in Tp/ of the same stem share its mask"
        listing.notes.append(f"{text}: {len(shared)} stems, for instance {shared[0]}")
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


def read_casia_v1(root: Path) -> Listing:
    """Lists CASIA v1.0 by file names, wherever below the root the folders are.

    `Au_*` is authentic (`Au/`), `Sp_*` tampered (`Sp/` or `Modified Tp/Tp/{CM,Sp}`), and
    `<stem>_gt.png` the mask of `<stem>`, or the one that alone has its serial number. Where a
    picture is there twice, the corrected copy in a "Modified" folder wins.
    """
    listing = Listing("casia_v1", root)
    masks: dict[str, Path] = {}
    pictures: dict[str, Path] = {}
    hint = ""

    def modified(path: Path) -> bool:
        below = path.relative_to(listing.root).parts
        return any(part.lower().startswith("modified") for part in below)

    for path in listing.all_pictures():
        stem = path.stem
        if stem.lower().endswith("_gt"):
            masks.setdefault(stem[: -len("_gt")], path)
        elif _CASIA_V2_NAME.match(stem):
            hint = "; these names are CASIA v2.0's, so use casia_v2"
            listing.skipped.append((path, "a name of CASIA v2.0, not of v1.0"))
        elif not (_CASIA_V1_AUTHENTIC.fullmatch(stem) or _CASIA_V1_TAMPERED.fullmatch(stem)):
            listing.skipped.append((path, "not a name of CASIA v1.0 (Au_ani_0001 or Sp_D_...)"))
        elif (other := pictures.get(stem)) is None or modified(path) > modified(other):
            pictures[stem] = path
            if other is not None:
                listing.skipped.append((other, f"superseded by {path}"))
        else:
            listing.skipped.append((path, f"the same name as {other}, which is used"))
    if not pictures:
        names = "Au/Au_ani_0001.jpg, Sp/Sp_D_....jpg"
        raise UserError(f"{listing.root}: found no CASIA v1.0 picture ({names}){hint}")
    tampered = {stem for stem in pictures if _CASIA_V1_TAMPERED.fullmatch(stem)}
    corrected = {trailing_number(stem) for stem in tampered if modified(pictures[stem])}
    listing.pair_by_number(tampered, masks)
    for stem, path in pictures.items():
        if stem not in tampered:
            listing.add(path, AUTHENTIC)
        elif stem not in masks and _CASIA_V1_NO_MASK.fullmatch(stem):
            listing.skipped.append((path, "the data set has no mask for it"))
        elif stem not in masks and not modified(path) and trailing_number(stem) in corrected:
            listing.skipped.append((path, "superseded by its renamed copy in a Modified folder"))
        else:
            listing.add(path, TAMPERED, masks.get(stem))
    return listing.finished("Au/ and Sp/")


def read_columbia(root: Path) -> Listing:
    """Lists Columbia: `4cam_auth/`, `4cam_splc/` and in it `edgemask/<stem>_edgemask.jpg`."""
    listing = Listing("columbia", root)
    for name, label in (("4cam_auth", AUTHENTIC), ("4cam_splc", TAMPERED)):
        folder = listing.folder(name)
        masks = listing.masks_in(folder and listing.folder("edgemask", below=folder), "_edgemask")
        for path in listing.pictures_in(folder, "edgemask"):
            listing.add(path, label, masks.get(path.stem), mask_style="columbia")
    return listing.finished("4cam_auth/ and 4cam_splc/ with pictures")


def read_coverage(root: Path) -> Listing:
    """Lists COVERAGE: `image/N.tif` authentic, `image/Nt.tif` tampered, `mask/Nforged.tif`."""
    listing = Listing("coverage", root)
    masks = listing.masks_in(listing.folder("mask"), "forged")
    images = listing.folder("image")
    for path, found in listing.named(images, r"(\d+)(t?)", "COVERAGE (1.tif or 1t.tif)"):
        label = TAMPERED if found[2] else AUTHENTIC
        listing.add(path, label, masks.get(found[1]), sources=(found[1],))
    return listing.finished("image/1.tif and image/1t.tif")


def read_imd2020(root: Path) -> Listing:
    """Lists IMD2020: per scene `<id>/<id>_orig.jpg`, tampered `<x>.jpg|png`, `<x>_mask.png`."""
    listing = Listing("imd2020", root)
    for folder in sorted(entry for entry in listing.root.glob("[!.]*") if entry.is_dir()):
        masks = listing.masks_in(folder, "_mask")
        for path in listing.pictures_in(folder):
            if path.stem.lower().endswith("_mask"):
                continue
            if path.stem.lower().endswith("_orig"):
                listing.add(path, AUTHENTIC, sources=(folder.name,))
            elif mask := masks.get(path.stem):
                listing.add(path, TAMPERED, mask, sources=(folder.name,), mask_style="nonzero")
            else:
                listing.skipped.append((path, "neither <id>_orig nor with a <name>_mask.png"))
    return listing.finished("folders with <id>_orig.jpg or <name>_mask.png")


def read_nist16(root: Path) -> Listing:
    """Lists the tampered pictures of NIST16 (NC2016) from its reference table.

    Its rows with `IsTarget` = Y give `ProbeFileName` and `ProbeMaskFileName`, black = tampered.
    Authentic pictures are near duplicates of each other and are not listed. Raises UserError where
    the table is absent or of other columns, too.
    """
    listing = Listing("nist16", root)
    table, columns = listing.root / NIST16_TABLE, ("IsTarget", "ProbeFileName", "ProbeMaskFileName")
    if not table.is_file():
        raise UserError(f"{listing.root}: not NIST16, there is no {NIST16_TABLE}")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="|")
            missing = ", ".join(name for name in columns if name not in (reader.fieldnames or ()))
            if missing:
                raise UserError(f"{table}: no column {missing}; expected a table split by |")
            rows = [[(row[name] or "").strip() for name in columns] for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table}: not a table of text split by | ({error})") from error
    wanted = [(name, mask_name) for target, name, mask_name in rows if target == "Y"]
    listed: set[str] = set()
    for name, mask_name in wanted:
        path, mask = listing.root / name, listing.root / mask_name
        if name in listed:
            listing.skipped.append((path, "listed a second time in the reference table"))
        elif not path.is_relative_to(listing.root) or not isfile(path):
            listing.skipped.append((path, "in the reference table, but there is no such file"))
        else:
            listing.add(path, TAMPERED, mask if isfile(mask) else None, mask_style="black")
        listed.add(name)
    if authentic := len(rows) - len(wanted):
        listing.notes.append(f"{authentic} rows of authentic pictures are left out")
    return listing.finished("the tampered pictures of its table")


def read_dso1(root: Path) -> Listing:
    """Lists DSO-1 (`tifs-database`): `DSO-1/{normal,splicing}-NN.png`.

    Masks have the picture's name, in `DSO-1-Fake-Images-Masks/`; black = tampered.
    """
    listing = Listing("dso1", root)
    masks = listing.masks_in(listing.folder("DSO-1-Fake-Images-Masks"), "")
    folder, names = listing.folder("DSO-1"), "DSO-1 (normal-01 or splicing-01)"
    for path, found in listing.named(folder, "(?:normal|(splicing))(?:-.*)?", names):
        label = TAMPERED if found[1] else AUTHENTIC
        listing.add(path, label, masks.get(path.stem), mask_style="black")
    return listing.finished("DSO-1/ and DSO-1-Fake-Images-Masks/, as in tifs-database")


def read_cocoglide(root: Path) -> Listing:
    """Lists CocoGlide: `real/<object>_<id>.png`, `fake/glide_inpainting_val2017_<id>_up.png`.

    Masks are named like the real picture, `mask/<object>_<id>_mask.png`: COCO's id tells the pair.
    """
    listing = Listing("cocoglide", root)
    masks: dict[str | None, list[Path]] = defaultdict(list)
    for stem, file in listing.masks_in(listing.folder("mask"), "_mask").items():
        masks[trailing_number(stem)].append(file)
    for name, label in (("real", AUTHENTIC), ("fake", TAMPERED)):
        folder, names = listing.folder(name), "CocoGlide, which ends in COCO's id"
        for path, found in listing.named(folder, r".*[_.](\d+)(_up)?", names):
            mask = masks[found[1]][0] if len(masks[found[1]]) == 1 else None
            listing.add(path, label, mask, sources=(found[1],))
    return listing.finished("real/, fake/ and mask/")


def read_autosplice(root: Path) -> Listing:
    """Lists AutoSplice: `Authentic/<id>.jpg`, `Forged_JPEG100/<id>_<k>.jpg`, `Mask/<id>_mask.png`.

    All edits of a picture share its mask, where anything but 0 is tampered. Forged_JPEG90 and
    Forged_JPEG75, the same edits compressed more, are read instead where one of them is the root.
    """
    listing = Listing("autosplice", root)
    forged = listing.folder("Forged_JPEG100", "Forged_JPEG90", "Forged_JPEG75")
    if listing.root.name.lower().startswith("forged_jpeg"):
        forged, listing.root = listing.root, listing.root.parent
    masks = listing.masks_in(listing.folder("Mask"), "_mask")
    for path in listing.pictures_in(listing.folder("Authentic")):
        listing.add(path, AUTHENTIC, sources=(path.stem,))
    for path in listing.pictures_in(forged):
        source = re.sub(r"_\d+$", "", path.stem)
        mask = masks.get(path.stem, masks.get(source))
        listing.add(path, TAMPERED, mask, sources=(source,), mask_style="nonzero")
    if forged:
        note = "other Forged_JPEG folders hold the same edits"
        listing.notes.append(f"forgeries are those of {forged.name}; {note}")
    return listing.finished("Authentic/, Forged_JPEG100/ and Mask/")


def read_comofod(root: Path) -> Listing:
    """Lists CoMoFoD, a flat folder: `NNN_O.png` authentic, `NNN_F.png` tampered, `NNN_B.png` masks.

    Left out are the coloured masks `NNN_M` and the versions after blurring, noise or compression,
    such as `NNN_F_JC3.jpg`: 24 of each picture. Masks mark the copy and what was copied.
    """
    listing = Listing("comofod", root)
    masks = listing.masks_in(listing.root, "_B")
    pattern, names = r"(\d+)_([OFBM])(_\w+)?", "CoMoFoD (001_O.png or 001_F.png)"
    processed = 0
    for path, found in listing.named(listing.root, pattern, names):
        if found[3]:
            processed += 1
        elif found[2].upper() in "OF":
            label = TAMPERED if found[2].upper() == "F" else AUTHENTIC
            listing.add(path, label, masks.get(found[1]), sources=(found[1],))
    listing.notes.append("masks mark the copied region as well as its copy")
    if processed:
        listing.notes.append(f"{processed} blurred, noisy or compressed versions are left out")
    return listing.finished("001_O.png, 001_F.png and 001_B.png in this folder itself")
