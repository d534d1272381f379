"""Tiles cover every pixel, blend without seams, and leave small pictures alone."""

import tracemalloc

import numpy as np
import pytest

from sapl_jax.inference.tiling import TiledDetector, blend_weights, tile_starts
from tests.evaluation.red_pictures import RedAnalysis, RedDetector


@pytest.mark.parametrize("length", [1, 99, 100, 101, 163, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_tiles_cover_a_side_with_at_least_the_overlap(length: int, overlap: float) -> None:
    starts = tile_starts(length, 100, overlap)
    assert starts[0] == 0
    if length <= 100:
        assert starts == [0]
        return
    assert starts[-1] == length - 100
    gaps = np.diff(starts)
    assert (gaps > 0).all() and gaps.max() <= 100 * (1 - overlap) + 1


def test_weights_fall_towards_both_ends() -> None:
    assert blend_weights(7).tolist() == [0.5, 1.5, 2.5, 3.5, 2.5, 1.5, 0.5]


def test_a_detector_that_works_pixel_by_pixel_gives_the_same_map_in_tiles() -> None:
    image = np.random.default_rng(0).integers(0, 256, (130, 170, 3), np.uint8)
    plain = RedDetector().analyse([image])[0]
    tiled = TiledDetector(RedDetector().analyse, tile=64, overlap=0.3).analyse([image])[0]
    np.testing.assert_allclose(tiled.heat_map, plain.heat_map, atol=1e-6)
    assert tiled.score == plain.score
    np.testing.assert_array_equal(tiled.mask, tiled.heat_map > 0.5)


def test_tiles_that_tell_nothing_are_as_cool_as_the_coolest_of_the_others() -> None:
    class Warm(RedDetector):
        def analyse(self, images):
            flat = [image.max() == image.min() for image in images]
            kept = [0 if f else 0.2 + i.max() / 1000 for f, i in zip(flat, images, strict=True)]
            maps = [np.full(i.shape[:2], heat) for i, heat in zip(images, kept, strict=True)]
            return [RedAnalysis(0.5, np.float32(heat_map)) for heat_map in maps]

    image = np.full((64, 192, 3), 255, np.uint8)
    image[:, :128] = np.random.default_rng(0).integers(0, 100, (64, 128, 3))
    found = TiledDetector(Warm().analyse, tile=64, overlap=0, share=1.0)
    np.testing.assert_allclose(found.analyse([image])[0].heat_map[:, 128:], 0.299, rtol=1e-6)
    white = found.analyse([np.full_like(image, 255)])[0].heat_map
    assert not white.any()


def test_small_pictures_go_to_the_detector_whole_and_together() -> None:
    detector = RedDetector()
    images = [np.zeros((*size, 3), np.uint8) for size in ((20, 64), (20, 65), (30, 30))]
    found = TiledDetector(detector.analyse, tile=64, batch=8).analyse(images)
    assert [analysis.heat_map.shape for analysis in found] == [(20, 64), (20, 65), (30, 30)]
    assert detector.batches == [2, 3]  # both small ones; the large one whole with its two tiles


class _Brightness(RedDetector):
    """Scores a picture by how bright it is."""

    def analyse(self, images):
        found = super().analyse(images)
        means = [image.mean() / 255 for image in images]
        return [RedAnalysis(m, r.heat_map) for m, r in zip(means, found, strict=True)]


@pytest.mark.parametrize(("share", "expected"), [(0.5, [0.9, 0.6]), (0.1, [0.9]), (1, None)])
def test_the_most_suspicious_tiles_may_give_the_score(share: float, expected) -> None:
    values = np.array([0.2, 0.9, 0.4, 0.6])
    squares = np.rint(values * 255).astype(np.uint8).reshape(2, 2)
    image = np.repeat(np.repeat(squares, 32, 0), 32, 1)[..., None].repeat(3, 2)
    detector = TiledDetector(_Brightness().analyse, tile=32, overlap=0, share=share)
    shown = np.array(values if expected is None else expected)
    odds = np.exp(np.log(shown / (1 - shown)).mean())
    assert detector.analyse([image])[0].score == pytest.approx(odds / (1 + odds), abs=0.003)


def test_no_more_tiles_than_the_batch_are_analysed_at_once() -> None:
    detector = RedDetector()
    tiled = TiledDetector(detector.analyse, tile=32, overlap=0, batch=3)
    tiled.analyse([np.zeros((64, 96, 3), np.uint8)])
    assert detector.batches == [3, 2, 2]  # The whole picture and six tiles.


class _ThumbnailDetector(RedDetector):
    """Works on a small copy and returns small maps for tiles, as a model with a canvas does."""

    def analyse(self, images):
        tiles = iter(super().analyse([image for image in images if max(image.shape[:2]) <= 256]))
        return [
            RedAnalysis(0.5, np.broadcast_to(np.float32(0), image.shape[:2]))
            if max(image.shape[:2]) > 256
            else next(tiles)
            for image in images
        ]


def test_memory_is_one_map_one_mask_and_a_batch_of_tiles() -> None:
    image = np.zeros((1500, 2000, 3), np.uint8)
    detector = TiledDetector(_ThumbnailDetector().analyse, tile=256, batch=4)
    tracemalloc.start()
    detector.analyse([image])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pixels = 1500 * 2000
    assert peak < (4 + 1) * pixels + 12 * 4 * 256 * 256 + 2_000_000


def test_the_score_is_the_whole_pictures_and_the_mask_has_the_threshold_given() -> None:
    image = np.full((64, 192, 3), 20, np.uint8)
    image[:, :64, 0] = 180  # 0.71, in the first tile alone
    for threshold, marked in ((0.5, 64 * 64), (0.8, 0)):
        detector = TiledDetector(RedDetector().analyse, 64, 0, threshold=threshold)
        found = detector.analyse([image])[0]
        assert found.score == pytest.approx(180 / 255)
        assert found.mask.sum() == marked


def test_a_flat_tile_is_as_cool_as_the_coolest_pixel_of_all_other_tiles() -> None:
    image = np.zeros((64, 192, 3), np.uint8)
    image[:, :64, 0], image[:, 64:128, 0] = 200, 100
    found = TiledDetector(RedDetector().analyse, tile=64, overlap=0).analyse([image])[0]
    np.testing.assert_allclose(found.heat_map[:, 128:], 100 / 255, rtol=1e-6)
