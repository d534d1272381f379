"""The tiny CLIP that the Hugging Face library wrote, and that library's own outputs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import CLIP

TINY = Path(__file__).parents[1] / "fixtures" / "hf_clip_tiny"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return TINY


@pytest.fixture(scope="session")
def tiny_clip() -> CLIP:
    """Shared by the tests: do not change it."""
    return load_clip(TINY)


@pytest.fixture(scope="session")
def expected() -> dict[str, np.ndarray]:
    """Arrays of the fixture; pictures as [B, H, W, 3]."""
    arrays = dict(np.load(TINY / "expected.npz"))
    for name in ("pixel_values", "large_pixel_values"):
        arrays[name] = arrays[name].transpose(0, 2, 3, 1)
    return arrays


@pytest.fixture
def folder_with(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model folder that holds config.json and only the given files of the tiny CLIP."""

    def make(*files: str) -> Path:
        for name in ("config.json", *files):
            shutil.copy(TINY / name, tmp_path / name)
        return tmp_path

    return make
