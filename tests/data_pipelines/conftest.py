"""A generated CASIA v2.0 tree, prepared once for all tests here, and the real pictures."""

import os
from pathlib import Path

import pytest

from data_pipelines.prepare import prepare
from data_pipelines.prepared import Prepared
from tests.data_pipelines.picture_trees import SMALL, make_casia


@pytest.fixture(scope="session")
def casia_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated CASIA v2.0 tree: 24 authentic, 16 tampered, one of them corrupt besides."""
    root = make_casia(tmp_path_factory.mktemp("casia"))
    whole = (root / "Au" / "Au_ani_00001.jpg").read_bytes()
    (root / "Au" / "Au_ani_00099.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "Tp" / "notes.db").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="session")
def small_prepared(casia_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """`casia_root` prepared at 64 pixels, a quarter for validation."""
    output = tmp_path_factory.mktemp("prepared")
    return prepare("casia_v2", casia_root, output, SMALL, val_fraction=0.25, seed=3)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real research pictures; skips where there is none."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SAPL_REAL_DATA", default))
    if not (folder / "CASIA2_subset").is_dir():
        pytest.skip("no real pictures here; set SAPL_REAL_DATA to a folder with CASIA2_subset")
    return folder
