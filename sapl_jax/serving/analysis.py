"""What the page computes: an uploaded file to a result that can be drawn again and again.

Also a few pictures, forged from photographs, for the page to offer.
"""

import shutil
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.generator.photographs import one_of_each_kind
from data_pipelines.images import read_bytes, upright
from data_pipelines.preprocess import resize
from data_pipelines.soft_edges import soft_edge_map
from sapl_jax.errors import UserError
from sapl_jax.inference import drawing, reading
from sapl_jax.inference.calibration import Calibration, verdict
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.output_folder import safe_stem

SHOWN_SIDE = 1024  # longer side of what the browser shows, in pixels
_ESCAPED = {ord(c): f"&#{ord(c)};" for c in "\\`*_{}[]()#+!|<>&~:/"}
_KEPT = 200  # mask files that can still be downloaded
_SEED = 20_240


class Limits(NamedTuple):
    """What visitors may send: MiB of a file, pixels of a picture, and pictures at the same time."""

    megabytes: int = 50
    pixels: int = 50_000_000
    concurrency: int = 2


@dataclass(frozen=True)
class Analysed:
    """One visitor's picture."""

    name: str  # harmless stem of the uploaded file's name
    score: float  # probability that it is tampered
    orientation: int  # EXIF's, of the file
    shown: np.ndarray  # uint8 RGB, the picture at the size the browser shows, upright
    shown_map: np.ndarray  # float32 heat map of that size, upright
    heat_map: np.ndarray  # uint8 [H,W], heat map of the picture's own size times 255
    edges: np.ndarray  # uint8 [h,w], soft edge map times 255, at the model's size, upright
    notes: tuple[str, ...]  # what reading the file left out
    calibration: Calibration | None = None  # of the model


def analyse_upload(localizer: Localizer, path: Path, name: str, limits: Limits) -> Analysed:
    """Reads and analyses a file that its owner calls `name`, which may be anything.

    Raises:
        UserError: the file is not a picture within the limits, checked before it is decoded.
    """
    data = read_bytes(path, limits.megabytes << 20)
    picture = reading.decode(data, name, limits.pixels)
    result = localizer.analyse([picture.rgb])[0]
    edges = soft_edge_map(resize(picture.rgb, localizer.geometry), localizer.edge_options)
    return Analysed(
        name=safe_stem(Path(name)),
        score=result.score,
        orientation=picture.orientation,
        shown=upright(drawing.shrink(picture.rgb, SHOWN_SIDE), picture.orientation),
        shown_map=upright(drawing.shrink(result.heat_map, SHOWN_SIDE), picture.orientation),
        heat_map=drawing.heat_map_to_grey(result.heat_map),
        edges=upright(drawing.heat_map_to_grey(edges), picture.orientation),
        notes=picture.notes,
        calibration=localizer.calibration,
    )


def draw(analysed: Analysed, opacity: float, threshold: float) -> np.ndarray:
    """The overlay the browser shows, uint8 RGB."""
    mask = analysed.shown_map > threshold
    return drawing.overlay(analysed.shown, analysed.shown_map, mask, opacity)


def summary(analysed: Analysed, threshold: float) -> str:
    """Verdict, score and size in words, Markdown without anything of the file in it."""
    height, width = analysed.heat_map.shape
    share = float(np.mean(analysed.shown_map > threshold))
    found, score = analysed.calibration, analysed.score
    probability = found.probability(score) if found else None
    calibrated = "" if probability is None else f", calibrated probability {probability:.1%}"
    lines = [
        f"### {verdict(score, found).capitalize()}: score {score:.4g}{calibrated}",
        *([found.rule] if found else []),
        f"{width} x {height} pixels; {share:.1%} of the picture is above the threshold.",
        *(f"Note: {note}." for note in analysed.notes),
    ]
    return "\n\n".join(lines)


class Downloads:
    """Mask files for download, each in a folder of its own below a given one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: deque[Path] = deque()

    def mask(self, analysed: Analysed, threshold: float) -> Path:
        """Writes the mask as <stem>_mask_<threshold>.png, returns where; old ones are removed."""
        own = Path(tempfile.mkdtemp(dir=self._folder))
        path = own / f"{analysed.name}_mask_{threshold:.2f}.png"
        mask = drawing.mask_to_grey(analysed.heat_map > threshold * 255)
        path.write_bytes(drawing.encode_png(mask, analysed.orientation))
        self._made.append(own)
        if len(self._made) > _KEPT:
            shutil.rmtree(self._made.popleft(), ignore_errors=True)
        return path


def message(error: UserError) -> str:
    """A refusal in words, with nothing a browser could take for markup."""
    text = "".join(c if c.isprintable() else "?" for c in str(error))
    return f"### This file cannot be analysed\n\n{text.translate(_ESCAPED)}"


def write_examples(folder: Path, size: int = 384) -> list[Path]:
    """Writes pictures into a folder; their names say whether and how they were tampered with."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for example in one_of_each_kind(_SEED, size):
        path = folder / f"{example.kind}.jpg"
        path.write_bytes(example.jpeg)
        paths.append(path)
    return paths
