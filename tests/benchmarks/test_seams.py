"""The measures of seams, on maps whose answer is known."""

import numpy as np
import pytest

from benchmarks import seams


def square_mask() -> np.ndarray:
    """White from 32 to 96 of 128 pixels: 16 of 64 cells; its outline runs between cells."""
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    return mask


def test_cells_are_means_and_leave_out_what_does_not_fill_one() -> None:
    values = np.arange(40 * 33, dtype=np.float32).reshape(40, 33)
    found = seams.cells(values)
    assert found.shape == (4,)
    assert found[3] == pytest.approx(values[16:32, 16:32].mean())


def test_a_ring_finds_the_seam_and_a_filled_square_the_mask() -> None:
    mask = square_mask()
    # Moved by half a cell, so that the outline's cells are mostly seam.
    mask = np.roll(mask, (8, 8), (0, 1))
    seam, inside = seams.seam_and_mask(mask)
    assert seam.any() and inside.any() and not (seam & ~inside).all()
    truth = (seam, inside)
    ring = seam.reshape(8, 8).repeat(16, 0).repeat(16, 1).astype(np.float32)
    on_ring, filled = (seams.measure(iter([m]), [truth]) for m in (ring, mask / np.float32(255)))
    assert on_ring["seam"] == 1.0 and on_ring["mask"] < 1.0
    assert filled == {"seam": filled["seam"], "mask": 1.0, "inverted": 0.0}


def test_an_inverted_map_is_counted_and_authentic_pictures_are_not() -> None:
    mask = square_mask()
    truth = seams.seam_and_mask(np.roll(mask, (8, 8), (0, 1)))
    right = np.roll(mask, (8, 8), (0, 1)) / np.float32(255)
    found = seams.measure(iter([right, 1 - right, right]), [truth, truth, None])
    assert found["inverted"] == 0.5


def test_differences_are_taken_seed_by_seed() -> None:
    def row(value: float) -> dict[str, float]:
        return dict.fromkeys(seams.MEASURES, value)

    found = {
        "edge map": row(0.7), "seed0/hecl": row(0.8), "seed1/hecl": row(0.6),
        "seed0/hecl_another": row(0.7), "seed1/hecl_another": row(0.5), "seed2/hecl": row(0.1),
    }  # fmt: skip
    lines = seams.tables(found)
    (difference,) = [line for line in lines if "HECL - HECL, another" in line]
    assert difference.count(".100 ± .000") == len(seams.MEASURES) and "  2  " in difference
