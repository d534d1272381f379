"""The worlds of the premise: edges as CASIA v1 has them, and nothing else that differs."""

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from data_pipelines import edge_statistics as es
from data_pipelines.generator.examples import Example, kind_of, make_example, sources_of
from data_pipelines.generator.folder import generate
from data_pipelines.generator.photographs import open_library, photograph_example
from data_pipelines.generator.seams import GRID, KINDS, seam_picture
from data_pipelines.images import decode_image, resave
from sapl_jax.errors import UserError

GENERATED = ("seam", "copy-move")
PHOTOGRAPHS = ("photographs", "photographs, objects found", "photographs, copies")


@pytest.fixture(params=[*GENERATED, *PHOTOGRAPHS])
def example_of(request: pytest.FixtureRequest) -> Callable[[int, int], Example]:
    """(number, size) -> picture, of one world after the other."""
    if request.param in GENERATED:
        return lambda n, size: make_example(5, n, size, world=request.param)
    folder = request.getfixturevalue("real_data") / "photographs"
    labels = folder / "segments" if request.param == "photographs" else None
    library = open_library(folder / "pictures", labels)
    world = "copy-move" if request.param == "photographs, copies" else "interior"
    return lambda n, size: photograph_example(library, 5, n, size, world)


def medians(examples: list[Example]) -> np.ndarray:
    """Local variance and gradient in tampered and authentic edges and interiors, [4, 2]."""
    found = [
        es.measure_picture(decode_image(example.jpeg, "picture"), example.mask > 127)
        for example in examples
    ]
    return np.median([means[:, :2] for means in found if means is not None], axis=0)


def ratios(examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Tampered / authentic: of edges and of interiors, each (variance, gradient)."""
    edge, plain_edge, inside, outside = medians(examples)
    return edge / plain_edge, inside / outside


def test_edges_are_about_casias_and_interiors_are_alike(example_of) -> None:
    edges, interiors = ratios([example_of(n, 256) for n in range(1, 301, 2)])
    # The bounds of the larger test below, widened by what 150 pictures can be off.
    assert 1.0 < edges[0] < 1.65 and 0.98 < edges[1] < 1.22, edges
    assert (interiors < 1.7).all() and (interiors > 1 / 1.7).all(), interiors


@pytest.mark.slow
def test_so_they_are_over_many_pictures(example_of) -> None:
    edges, interiors = ratios([example_of(n, 256) for n in range(1, 2001, 2)])
    assert 1.1 < edges[0] < 1.5 and 1.02 < edges[1] < 1.2, edges
    assert (interiors < 1.7).all() and (interiors > 1 / 1.7).all(), interiors


def test_the_interior_world_has_weaker_tampered_edges() -> None:
    edges, _ = ratios([make_example(5, n, 128) for n in range(1, 101, 2)])
    assert (edges < 0.8).all(), edges


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_in_seam_is_exact_and_moved_by_whole_cells(seed: int) -> None:
    rngs = [np.random.default_rng([seed, k]) for k in range(3)]
    picture, mask = seam_picture(*rngs, (96, 128), "copy-move", True)
    hard = cv2.erode(mask, np.ones((7, 7), np.uint8)) > 0  # the outline is blended

    def is_copy(x: int, y: int) -> bool:
        origin, there = (np.roll(layer, (y, x), (0, 1)) for layer in (picture, changed))
        return np.array_equal(origin[hard & ~there], picture[hard & ~there])

    changed = cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0
    moves = [(x, y) for x in range(0, 128, GRID) for y in range(0, 96, GRID)][1:]  # all but none
    assert sum(is_copy(x, y) for x, y in moves) == 1


def test_a_tampered_seam_picture_without_its_forgery_is_a_whole_photograph() -> None:
    """Decoys and forgery come from the same draws: only the last piece tells the classes apart."""

    def made(tampered: bool) -> tuple[np.ndarray, np.ndarray | None]:
        rngs = [np.random.default_rng([7, k]) for k in range(3)]
        return seam_picture(*rngs, (96, 128), "splicing", tampered)

    (tampered, mask), (authentic, none) = made(True), made(False)
    assert none is None
    far = cv2.dilate(mask, np.ones((21, 21), np.uint8)) == 0
    difference = np.abs(tampered.astype(int) - authentic)
    assert difference[far].mean() < 1  # one camera, one noise; JPEG blocks at the piece differ
    outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    sharpness = [es.local_statistics(p)[1][outline].mean() for p in (tampered, authentic)]
    assert sharpness[0] > 1.1 * sharpness[1]


def test_seam_has_its_kinds_two_sources_each_and_other_pictures_than_interior() -> None:
    assert {kind_of(0, n, "seam") for n in range(1, 60, 2)} == set(KINDS)
    assert all(len(sources_of(0, n, "seam")) == 2 for n in range(8))
    assert make_example(0, 4, 64, world="seam").jpeg != make_example(0, 4, 64).jpeg


def test_a_hard_copy_is_of_its_own_picture_and_nothing_else_is_changed() -> None:
    for n in (1, 3, 5):
        forged, base = make_example(4, n, 128, "copy-move"), make_example(4, 2 * n, 128)
        picture, own = (decode_image(example.jpeg, "picture") for example in (forged, base))
        # JPEG's blocks stand alone: those that the copy does not touch are as if saved without it.
        rows, columns = (side // 8 for side in own.shape[:2])
        blocks = forged.mask[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).max((1, 3))
        beside = np.kron(blocks, np.ones((8, 8))) == 0
        saves = [resave(own, quality, "4:4:4") for quality in range(90, 99)]
        whole = np.s_[: rows * 8, : columns * 8]
        assert any((picture[whole][beside] == save[whole][beside]).all() for save in saves)
        # The middle of the copy is found elsewhere in the picture, perhaps mirrored.
        depth = cv2.distanceTransform(np.pad(forged.mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        middle = np.s_[y - 4 : y + 5, x - 4 : x + 5]
        sides = own, np.ascontiguousarray(own[:, ::-1])
        least = min(cv2.matchTemplate(s, picture[middle], cv2.TM_SQDIFF).min() for s in sides)
        here = ((picture[middle].astype(float) - own[middle]) ** 2).sum()
        assert least < 0.1 * here
    assert [kind_of(4, n, "copy-move") for n in (1, 2)] == ["copy-move", "authentic"]
    assert len({sources_of(4, n, "copy-move") for n in range(20)}) == 20


def test_both_takes_pairs_of_either_world() -> None:
    for n, world in enumerate(["interior", "interior", "seam", "seam", "interior"]):
        both = make_example(3, n, 64, world="both")
        assert both.jpeg == make_example(3, n, 64, world=world).jpeg


def test_a_folder_of_another_world_is_refused(tmp_path) -> None:
    def write(world: str) -> None:
        generate(tmp_path / "set", 4, 0, 64, world=world, workers=1)

    write("seam")
    with pytest.raises(UserError, match="another --output"):
        write("interior")


def test_pictures_of_an_earlier_version_are_not_continued(tmp_path) -> None:
    generate(tmp_path / "set", 4, 0, 64, world="seam", workers=1)
    mark = tmp_path / "set" / "generator.json"
    earlier = json.loads(mark.read_text()) | {"version": 1}
    mark.write_text(json.dumps(earlier))
    with pytest.raises(UserError, match="'version': 1.*'version': 2"):
        generate(tmp_path / "set", 6, 0, 64, world="seam", workers=1)
