"""The model that comes with the package: small, and better than chance on photographs."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data_pipelines.generator.photographs import Library, installed_photographs, photograph_example
from data_pipelines.images import decode_image, read_image
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import SHIPPED


@pytest.mark.parametrize("size", [192, 384])
def test_it_finds_forgeries_in_photographs_that_it_never_saw(size: int) -> None:
    """scikit-learn's two photographs are in no training set. No skill has .5 of both."""
    library = Library(tuple(installed_photographs()), {}, "train")
    examples = [photograph_example(library, 0, number, size) for number in range(80)]
    found = Localizer.load(SHIPPED).analyse([decode_image(e.jpeg, e.kind) for e in examples])
    forged = [example.mask is not None for example in examples]
    assert roc_auc_score(forged, [result.score for result in found]) > 0.63
    where = [
        roc_auc_score(example.mask.ravel() > 127, result.heat_map.ravel())
        for example, result in zip(examples, found, strict=True)
        if example.mask is not None
    ]
    assert np.mean(where) > 0.68


@pytest.mark.parametrize("level", [0, 90, 128, 160, 255])
def test_flat_areas_accuse_nothing(level: int) -> None:
    localizer = Localizer.load(SHIPPED)
    photographs = [read_image(path)[:280, :280] for path in installed_photographs()]
    framed = [
        np.pad(p, ((160, 160), (160, 160), (0, 0)), constant_values=level) for p in photographs
    ]
    flat = np.full((400, 500, 3), level, np.uint8)
    for result in localizer.analyse([*framed, flat]):
        assert result.score < localizer.calibration.tampered_above
    assert not localizer(flat).mask.any() and not localizer(flat[:150, :130]).mask.any()


def test_a_white_margin_does_not_light_up_the_photograph_beside_it() -> None:
    localizer, marked = Localizer.load(SHIPPED), []
    noise = np.random.default_rng(0).integers(250, 256, (300, 300, 3), np.uint8)
    for margin in (np.full_like(noise, 255), noise):
        pictures = [read_image(path)[:300, :300] for path in installed_photographs()]
        found = localizer.analyse([np.hstack([picture, margin]) for picture in pictures])
        marked.append(np.mean([result.mask[:, :300].mean() for result in found]))
    assert marked[0] < marked[1] + 0.05


def test_it_is_small_and_sees_large_pictures_in_tiles() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 12e6
    localizer = Localizer.load(SHIPPED)
    assert localizer.tile == localizer.geometry.size == 192
