"""Hard copy-move differs from its picture inside the mask alone, which the same picture fills."""

import numpy as np

from benchmarks.hard_copy_move import forge, write
from data_pipelines.readers import read_dataset


def test_a_shape_is_filled_from_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (96, 128, 3), np.uint8)
    forged, mask = forge(rng, rgb)
    assert 0.03 <= (mask > 0).mean() <= 0.2
    np.testing.assert_array_equal(forged[mask == 0], rgb[mask == 0])
    assert (forged[mask > 0] != rgb[mask > 0]).any(axis=1).mean() > 0.9
    assert set(map(bytes, forged[mask > 0])) <= set(map(bytes, rgb.reshape(-1, 3)))


def test_every_other_picture_of_a_set_is_forged(tmp_path) -> None:
    for folder in ("Au", "Tp", "Gt"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        write(number, tmp_path, seed=3, size=96)
    samples = read_dataset("folder", tmp_path).samples
    assert [sample.label for sample in samples] == [0, 0, 1, 1]
    assert all(sample.mask for sample in samples if sample.label)
