"""One page per picture for whoever must judge it: what was found, on what, by what, how surely.

The same picture and model give the same bytes, so that a page can be made again and compared.
"""

import functools
import io
import os
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from data_pipelines.images import encode_jpeg, read_bytes, read_header, upright
from data_pipelines.preprocess import resize
from data_pipelines.soft_edges import soft_edge_map
from sapl_jax.errors import UserError
from sapl_jax.evaluation.document import Picture, Section, Table, to_html
from sapl_jax.files import sha256_of, versions
from sapl_jax.inference import drawing, reading
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import SHIPPED

_SIDE = 1000  # longer side of what the page shows, in pixels
_REGIONS = 12
_LONGEST = 120  # characters of a metadata value


def case_report(
    localizer: Localizer,
    settings: dict[str, Any],
    path: Path,
    picture: reading.Picture,
    heat_map: np.ndarray,
    record: dict[str, Any],
) -> bytes:
    """The page, HTML that loads nothing.

    Args:
        localizer: what analysed the picture, perhaps in tiles.
        settings: of the prediction, "threshold", "model_sha256", "tile", "tile_overlap" and others.
        heat_map: float32 [H, W] in [0, 1].
        record: of predictions.jsonl.
    """
    name = os.fsencode(path).decode("utf-8", "replace")
    mask = heat_map > settings["threshold"]
    sections = [
        Section("Finding", _finding(localizer, settings, record)),
        Section("Picture and maps", _pictures(localizer, picture, heat_map, mask)),
        Section("Regions", _regions(record)),
        Section("The file", [[f"path: {name}", f"SHA-256: {picture.sha256}",
                              *_metadata(path, picture.sha256),
                              *(f"note: {note}" for note in picture.notes)]]),
        Section("What this cannot say", [_limits(localizer)]),
        Section("How to reproduce it", _provenance(localizer, settings, record, name)),
    ]  # fmt: skip
    return to_html(f"Case report: {Path(name).name}", sections, columns=2).encode()


def _finding(localizer: Localizer, settings: dict, record: dict) -> list:
    verdict, score, share = (record[key] for key in ("verdict", "score", "tampered_fraction"))
    text = (
        f"Verdict: {verdict}. Image score {score:.4g}. {share:.1%} of the pixels are in the mask "
        f"(heat map above {settings['threshold']:.4g})."
    )
    if (found := localizer.calibration) is None:
        return [text, "Rule: tampered above a score of 0.5. The score is not calibrated: 0.9 does "
                "not mean that nine of ten such pictures are tampered, and no rate of false alarms "
                "is known."]  # fmt: skip
    if (probability := record["probability"]) is not None:
        text += (
            f" Calibrated probability {probability:.1%}, where {found.fitted_on[1]} of "
            f"{sum(found.fitted_on)} pictures are tampered, as in the data it was fitted on."
        )
    return [text, f"Rule: {found.rule}"]


def _pictures(
    localizer: Localizer, picture: reading.Picture, heat_map: np.ndarray, mask: np.ndarray
) -> list[Picture]:
    small, small_map = drawing.shrink(picture.rgb, _SIDE), drawing.shrink(heat_map, _SIDE)
    size = small_map.shape[::-1]
    small_mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    edges = soft_edge_map(resize(picture.rgb, localizer.geometry), localizer.edge_options)
    edges = cv2.resize(drawing.heat_map_to_grey(edges), size, interpolation=cv2.INTER_NEAREST)
    over = drawing.overlay(small, small_map, small_mask)
    shown = {
        "The picture": small,
        "Heat map over the picture; the line is the mask's outline": over,
        "Heat map: white is suspected": drawing.heat_map_to_grey(small_map),
        "Mask": drawing.mask_to_grey(small_mask),
        f"Soft edge map of the whole picture at {localizer.geometry.size} pixels": edges,
    }
    turned = {caption: upright(pixels, picture.orientation) for caption, pixels in shown.items()}
    return [
        Picture("", drawing.encode_png(p) if p.ndim == 2 else encode_jpeg(p, 95, "4:2:0"), caption)
        for caption, p in turned.items()
    ]


def _regions(record: dict) -> list:
    found = record["regions"]
    if not found:
        return ["The mask is empty."]
    rows = [[str(n), *map(str, r.values())] for n, r in enumerate(found[:_REGIONS], 1)]
    more = f"; the largest {_REGIONS} of {len(found)}" if len(found) > _REGIONS else ""
    size = f"The picture has {record['width']} x {record['height']} pixels as stored"
    return [f"{size}; boxes from their top left corner{more}.", Table(["region", *found[0]], rows)]


def _metadata(path: Path, sha256: str) -> list[str]:
    """What the file says of itself; nobody vouches for that."""
    try:
        data = read_bytes(path, reading.MAX_BYTES)
        if sha256_of(data) != sha256:
            return ["metadata: the file has changed since it was analysed"]
        header = read_header(data, path)
    except UserError:
        return ["metadata: cannot be read"]
    found = [f"format: {header.format}, {header.width} x {header.height}, {header.mode}"]
    tables = header.quantization if isinstance(header, JpegImageFile) else {}
    for number, table in tables.items():
        quality = _standard_tables().get(tuple(table))
        meaning = f"libjpeg's at quality {quality}" if quality else "not libjpeg's at any quality"
        found.append(f"JPEG quantisation table {number}: {meaning} ({' '.join(map(str, table))})")
    try:
        exif = Image.Image.getexif(header)
        parts: list[tuple[Any, dict]] = [
            (exif, ExifTags.TAGS), (exif.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS),
            (exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS),
        ]  # fmt: skip
        tags = {f"EXIF {t.get(k, f'tag {k}')}": v for part, t in parts for k, v in part.items()}
        tags |= {f"PNG {key}": v for key, v in header.info.items() if header.format == "PNG"}
    except Exception as error:  # of any kind, by what is damaged
        return [*found, f"metadata: damaged ({error})"]
    for name, value in tags.items():
        text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
        text = "".join(c if c.isprintable() else "?" for c in text)
        found.append(f"{name}: {text[:_LONGEST]}{'...' * (len(text) > _LONGEST)}")
    return found if tags else [*found, "metadata: none"]


@functools.cache
def _standard_tables() -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    for quality in range(1, 101):
        data = encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality, "4:2:0")
        for table in JpegImageFile(io.BytesIO(data)).quantization.values():
            found[tuple(table)] = quality
    return found


def _limits(localizer: Localizer) -> list[str]:
    size, patch, tile = localizer.geometry.size, localizer.geometry.patch, localizer.tile
    seen = f"a picture larger than {tile} pixels in tiles of these, each" if tile else "the picture"
    return [
        "This is a hint for a person to check, not a proof. Nothing should rest on it alone.",
        "The model learned from labels of whole pictures. Where it points is what told the labels "
        "apart in training, which need not be what was changed here.",
        f"It sees {seen} with the longer side at {size} pixels, in patches of {patch}: what is "
        "smaller than a few of these, it does not see.",
        "Changes of the whole picture, strong or repeated compression, screenshots and pictures "
        "that a model generated are beyond it. Authentic means that nothing was found.",
        "Metadata can be written by anyone; their absence is usual on the web.",
    ]


def _provenance(localizer: Localizer, settings: dict, record: dict, name: str) -> list:
    source, clip = localizer.source, localizer.source["clip"]
    tile = ""
    if settings["tile"]:
        tile = f" --tile {settings['tile']} --tile-overlap {settings['tile_overlap']}"
    if (pixels := record["width"] * record["height"]) > reading.MAX_PIXELS:
        tile += f" --max-megapixels {-(-pixels // 10**6)}"
    given = "" if Path(source["weights"]).is_relative_to(SHIPPED) else " --checkpoint CHECKPOINT"
    if source["weights"].endswith(f"/{source['checkpoint']}"):  # a run's
        given += f" --which {source['checkpoint'].split('/')[0]}"
    command = (
        f"python -m sapl_jax.predict{given} --threshold {settings['threshold']!r}{tile} "
        f"--report --output OUTPUT {shlex.quote(name)}"
    )
    return [[
        f"model: checkpoint {source['checkpoint']}, SHA-256 {settings['model_sha256']}",
        f"CLIP: {clip['name']}, SHA-256 {clip['sha256']}",
        "versions: " + ", ".join(f"{key} {value}" for key, value in versions().items()),
        f"command: {command}",
    ]]  # fmt: skip
