"""Holds an export against the checkpoint it was made from, on pictures."""

import importlib.util
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.images import read_image
from sapl_jax.errors import UserError
from sapl_jax.exporting.formats import with_tower_of
from sapl_jax.inference.detector import Detector
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.trained import TrainedModel

TOLERANCE = 1e-3  # largest difference of heat maps and scores, all in float32
STANDALONE = "run.py"  # the file of that name in StableHLO and ONNX exports


class Comparison(NamedTuple):
    """One picture. Largest absolute differences of its heat map and its score."""

    name: str
    size: tuple[int, int]
    heat_map: float
    score: float


def photographs() -> list[Path]:
    """Two real photographs that come with scikit-learn."""
    folder = Path(str(files("sklearn.datasets"))) / "images"
    return [folder / "china.jpg", folder / "flower.jpg"]


def detector_of_export(folder: Path, kind: str, trained: TrainedModel) -> Detector:
    """An export as its user gets it.

    Args:
        folder: the export.
        kind: its format.
        trained: lends its prompts where the export has none (huggingface).
    """
    if kind == "orbax":
        return Localizer.load(folder, dtype="float32")
    if kind == "huggingface":
        return Localizer(*with_tower_of(trained, folder))
    spec = importlib.util.spec_from_file_location("sapl_export_run", folder / STANDALONE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model(folder)


def compare(expected: Detector, exported: Detector, pictures: Sequence[Path]) -> list[Comparison]:
    """Both on every picture; UserError for a picture that cannot be read."""
    comparisons = []
    for path in pictures:
        image = read_image(path)
        # One at a time: a padded batch would cost several times the arithmetic. By position,
        # since what run.py gives has no names.
        one, other = expected.analyse([image])[0], exported.analyse([image])[0]
        difference = float(np.max(np.abs(one[1] - other[1])))
        comparisons.append(
            Comparison(path.name, image.shape[:2], difference, abs(one[0] - other[0]))
        )
    return comparisons


def require_equal(comparisons: Sequence[Comparison]) -> None:
    """UserError where a difference is over the tolerance or not a number."""
    wrong = [c for c in comparisons if not max(c.heat_map, c.score) <= TOLERANCE]
    if wrong:
        found = "; ".join(f"{c.name}: map {c.heat_map:.2g}, score {c.score:.2g}" for c in wrong)
        raise UserError(
            f"The export differs from the checkpoint by more than {TOLERANCE:g} ({found}). It was "
            "not kept. Please report this with the versions in the run's folder."
        )
