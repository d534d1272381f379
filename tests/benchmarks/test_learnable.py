"""The net that is trained with masks, on pictures whose answer is known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import learnable
from sapl_jax.errors import UserError


def write_set(folder: Path, seed: int, count: int, *, size: int = 64, told: bool = True) -> Path:
    """Grey pictures, every other with a noisy square; the masks are elsewhere unless `told`."""
    rng = np.random.default_rng(seed)
    for name in ("Au", "Tp", "Gt"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        picture = np.full((size, size, 3), 128, np.int16)
        mask = np.zeros((size, size), np.uint8)
        y, x = 8 + 16 * rng.integers(0, 2, 2)  # so that its outline runs through cells
        mask[y : y + 32, x : x + 32] = 255
        if number % 2:
            picture[mask > 0] += rng.integers(-60, 60, (32 * 32, 3))
            shown = mask if told else np.roll(mask, (32, 32), (0, 1))
            cv2.imwrite(str(folder / "Gt" / f"{number}_gt.png"), shown)
        cv2.imwrite(
            str(folder / ("Tp" if number % 2 else "Au") / f"{number}.png"), picture.astype(np.uint8)
        )
    return folder


@pytest.mark.parametrize("told", [True, False])
def test_the_net_finds_what_the_masks_tell(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_set(tmp_path / "train", 1, 32, told=told)
    test = write_set(tmp_path / "test", 2, 16)
    folders = ["--train", str(train), "--test", str(test)]
    monkeypatch.setattr("sys.argv", ["learnable", *folders, "--steps", "30", "--every", "30"])
    learnable.main()
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 30
    if told:
        assert found["mask"] > 0.95
    else:  # The masks lay elsewhere, and so does what was learned.
        assert found["mask"] < 0.7


def test_pictures_of_all_sizes_share_a_canvas_and_large_ones_are_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "one", 1, 4)
    cv2.imwrite(str(folder / "Au" / "wide.png"), np.zeros((40, 80, 3), np.uint8))
    found = learnable.read_pictures(folder)
    assert found.canvases.shape == (5, 80, 80, 3)
    wide = [sample.image.name for sample in found.samples].index("wide.png")
    assert found.valid[wide].sum() == 2 * 5 and found.inside[wide].sum() == 0
    square = found.inside[next(n for n, s in enumerate(found.samples) if s.label == 1)]
    assert square.sum() == 4  # cells, of 32 x 32 pixels
    cv2.imwrite(str(folder / "Au" / "large.png"), np.zeros((600, 40, 3), np.uint8))
    with pytest.raises(UserError, match="512"):
        learnable.read_pictures(folder)
