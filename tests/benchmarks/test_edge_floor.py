"""The floor of edge statistics: its cells, and that it finds what differs by edges alone."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import edge_floor
from sapl_jax.evaluation.map_folders import read_map
from sapl_jax.metrics import roc_auc


def test_blocks_are_cells_and_the_rest_is_filled_up() -> None:
    values = np.arange(20 * 33).reshape(20, 33)
    found = edge_floor.blocks(values)
    assert found.shape == (2, 3, 256)
    assert np.array_equal(found[0, 1].reshape(16, 16), values[:16, 16:32])
    assert set(found[1, 2]) == set(values[16:, 32])


def test_statistics_of_a_flat_cell_are_zero_and_a_step_has_edges() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 24:] = 200
    found = edge_floor.statistics(picture)
    assert not found[:, 0].any()
    assert (found[:, 1] > 0).all()


def _folder(folder: Path, seed: int) -> None:
    """Smooth pictures; the tampered ones have a square of noise, which is their mask."""
    rng = np.random.default_rng(seed)
    for part in ("Au", "Tp", "Gt"):
        (folder / part).mkdir(parents=True)
    for number in range(6):
        picture = np.full((64, 80, 3), rng.integers(50, 200), np.uint8)
        cv2.imwrite(str(folder / "Au" / f"{number}.png"), picture)
        mask = np.zeros((64, 80), np.uint8)
        y, x = rng.integers(0, 33, 2)
        mask[y : y + 32, x : x + 32] = 255
        picture[mask > 0] = rng.integers(0, 256, (32 * 32, 3))
        cv2.imwrite(str(folder / "Tp" / f"{number}t.png"), picture)
        cv2.imwrite(str(folder / "Gt" / f"{number}t_gt.png"), mask)


def test_maps_find_the_region_with_more_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folder(tmp_path / "train", 0)
    _folder(tmp_path / "test", 1)
    flags = ["--train", str(tmp_path / "train"), "--test", f"new={tmp_path / 'test'}"]
    monkeypatch.setattr(sys, "argv", ["edge_floor", *flags, "--output", str(tmp_path / "maps")])
    edge_floor.main()
    maps = sorted((tmp_path / "maps" / "new").rglob("*.npz"))
    assert len(maps) == 12
    for path in maps:
        heat_map, score, notes = read_map(path)
        assert heat_map.shape == (64, 80)
        if path.stem.endswith("t.png"):
            mask = cv2.imread(str(tmp_path / "test" / "Gt" / f"{path.stem[:-4]}_gt.png"), 0)
            assert roc_auc((mask > 0).ravel(), heat_map.ravel()) > 0.9
            assert score is not None
            assert score > 0.5
            assert not notes
        else:
            assert heat_map.max() < 0.5
