"""What is said of HECL's selection, on similarities whose answer is known."""

import numpy as np

from benchmarks.selection import seam_patches, shares
from data_pipelines.preprocess import Geometry, preprocess


def test_edges_change_what_is_selected_and_another_pictures_change_it_otherwise() -> None:
    # Four patches, the first on the seam. "fake" prefers the second a little.
    margin = np.array([0.1, 0.2, -0.1, -0.2], np.float32)
    similarity = np.broadcast_to(np.stack([-margin, margin], axis=-1), (1, 2, 4, 2))
    edges = np.array([[1, 0.1, 0.1, 0.1], [0.1, 1, 0.1, 0.1]], np.float32)
    valid = np.ones((2, 4), bool)
    seam = np.array([[True, False, False, False]] * 2)
    found = shares(similarity, 1.0, edges, valid, seam, top_k=1)
    # Own: the first picture's patch of most edge, which "real", by its probability, leaves alone.
    assert found["own, manipulated"] == 0.5 and found["own, authentic"] == 0
    assert found["none, manipulated"] == 0 and found["none, authentic"] == 0
    assert found["another's, manipulated"] == 0.5
    other = shares(similarity, 1.0, edges, valid, np.roll(seam, 1, axis=1), top_k=1)
    assert other["none, manipulated"] == 1


def test_patches_that_cannot_be_selected_do_not_count() -> None:
    similarity = np.zeros((1, 1, 4, 2), np.float32)
    edges = np.array([[1, 0, 0, 0]], np.float32)
    valid, seam = np.ones((1, 4), bool), np.array([[True, False, False, False]])
    assert shares(similarity, 1.0, edges, valid, seam, top_k=3)["own, manipulated"] == 1


def test_seam_patches_lie_along_the_outline_and_inside_the_picture() -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[40:96, 40:88] = 255  # Its outline runs through the middle of cells of 16 pixels.
    geometry = Geometry(64, 8)  # Shrunk to half: the same outline in cells of 8.
    picture = np.zeros((96, 128, 3), np.uint8)
    found = seam_patches(mask, preprocess(picture, geometry), geometry).reshape(8, 8)
    assert not found[6:].any()  # The padding.
    assert found[2, 3] and found[3, 2] and not found[0, 0]
