"""The run behind `sapl_jax.predict`: read ahead, analyse in batches, write, go on."""

import concurrent.futures
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.images import UnreadableImage, read_bytes
from data_pipelines.listing import LABEL_NAMES, TAMPERED
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import batches_ahead
from sapl_jax.files import sha256_of
from sapl_jax.inference import drawing, reading
from sapl_jax.inference.calibration import Calibration, verdict
from sapl_jax.inference.detector import Detector, Result, is_finite
from sapl_jax.inference.output_folder import ENDINGS, OutputFolder

_THREADS = 4
_BATCH_PIXELS = 32_000_000  # decoded pixels of one batch, and from which on no other is read

# Bytes of each file by its ending, and the record.
Made = tuple[dict[str, bytes], dict[str, Any]]
Report = Callable[[Path, reading.Picture, np.ndarray, dict[str, Any]], bytes]


@dataclass
class Summary:
    """What a run did: counts, and (path, reason) of files that could not be used."""

    analysed: int = 0
    tampered: int = 0
    already_there: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def predict(
    detector: Detector,
    pictures: Sequence[Path],
    output: OutputFolder,
    threshold: float,
    *,
    max_pixels: int = reading.MAX_PIXELS,
    batch_size: int = 8,
    report: Report | None = None,
) -> Summary:
    """Analyses every picture that `output` does not hold yet.

    Args:
        detector: a `Localizer`, or another; its calibration, if any, gives probabilities, verdicts.
        pictures: absolute paths.
        threshold: the mask is heat map > threshold.
        max_pixels: of one picture; larger ones are refused.
        report: makes a picture's page of its path, pixels, heat map and record.

    Raises:
        UserError: the output cannot be written. A file that cannot be used never raises: it is in
            the summary.
    """
    summary, calibration = Summary(), getattr(detector, "calibration", None)

    def load(path: Path) -> tuple[Path, reading.Picture | str | None]:
        """A file's picture, or why it has none, or None where its prediction is there."""
        try:
            data = read_bytes(path, reading.MAX_BYTES)
            there = output.holds(path, sha256_of(data))
            return path, None if there else reading.decode(data, path, max_pixels)
        except UnreadableImage as error:
            return path, str(error).removeprefix(f"{path}: ")
        except MemoryError:
            return path, "not enough memory to decode it"

    def pixels(loaded: tuple[Path, reading.Picture | str | None]) -> int:
        return loaded[1].rgb[..., 0].size if isinstance(loaded[1], reading.Picture) else 0

    def make(path: Path, picture: reading.Picture, analysis: Result) -> Made:
        files, record = render(picture, analysis, threshold, calibration)
        if report is not None:
            files["report"] = report(path, picture, analysis.heat_map, record)
        return files, record

    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        ProgressBar(total=len(pictures), desc="predict", unit="image") as bar,
    ):
        for batch in batches_ahead(load, pictures, batch_size, _BATCH_PIXELS, pixels):
            readable = [(path, it) for path, it in batch if isinstance(it, reading.Picture)]
            summary.already_there += sum(it is None for _, it in batch)
            summary.skipped += [(path, it) for path, it in batch if isinstance(it, str)]
            analyses = detector.analyse([it.rgb for _, it in readable]) if readable else []
            made = [
                (path, pool.submit(make, path, picture, analysis))
                for (path, picture), analysis in zip(readable, analyses, strict=True)
            ]
            for path, future in made:
                try:
                    files, record = future.result()
                except UnreadableImage as error:
                    summary.skipped.append((path, str(error)))
                    continue
                output.add(path, files, record)
                summary.analysed += 1
                summary.tampered += record["verdict"] == LABEL_NAMES[TAMPERED]
            bar.update(len(batch))
    return summary


def render(
    picture: reading.Picture,
    analysis: Result,
    threshold: float,
    calibration: Calibration | None,
    parts: Sequence[str] = ENDINGS,
) -> Made:
    """What people and programs get of a result: PNG bytes of each of `parts`, and a JSON object.

    Raises:
        UnreadableImage: the model gave no finite number, or the picture is too large for PNG.
    """
    heat_map = analysis.heat_map
    if not is_finite(analysis):
        raise UnreadableImage("the model gave a score or map that is not finite")
    mask = heat_map > threshold
    draw = {
        "heatmap": lambda: drawing.heat_map_to_grey(heat_map),
        "mask": lambda: drawing.mask_to_grey(mask),
        "overlay": lambda: drawing.overlay(picture.rgb, heat_map, mask),
    }
    files = {part: drawing.encode_png(draw[part](), picture.orientation) for part in parts}
    probability = calibration.probability(analysis.score) if calibration else None
    record = {
        "sha256": picture.sha256,
        "height": heat_map.shape[0],
        "width": heat_map.shape[1],
        "score": round(float(analysis.score), 6),
        "probability": None if probability is None else round(float(probability), 6),
        "verdict": verdict(analysis.score, calibration),
        "tampered_fraction": round(float(np.mean(mask)), 6),
        "regions": drawing.regions(mask),
        "notes": list(picture.notes),
    }
    return files, record
