"""Training is weakly supervised: preparing and reading never open a mask."""

import os
import shutil
import sys
from itertools import islice
from pathlib import Path

from data_pipelines.prepare import prepare
from data_pipelines.record_batches import eval_batches, train_batches
from tests.data_pipelines.picture_trees import SMALL, make_casia

OLD, NEW = 1_000_000_000, 1_100_000_000


def age(folder: Path) -> None:
    """Dates last access before last change, so that the system notes the next read."""
    for path in folder.iterdir():
        os.utime(path, (OLD, NEW))


def accessed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.stat().st_atime != OLD)


def run(root: Path, output: Path) -> list[bytes]:
    prepared = prepare("casia_v2", root, output, SMALL, val_fraction=0.25)
    list(islice(train_batches(prepared, batch_size=4, seed=0), 8))
    list(eval_batches(prepared, batch_size=4))
    return [path.read_bytes() for path in sorted(prepared.dir.glob("*.array_record*"))]


def test_no_mask_is_opened_from_root_to_batches(tmp_path: Path) -> None:
    root = make_casia(tmp_path / "root", 8, 8)
    masks = root / "Gt"
    assert list(masks.iterdir())
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event == "open" and "_gt" in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    age(masks)
    age(root / "Au")
    with_masks = run(root, tmp_path / "one")
    watching = False
    assert opened == []
    if accessed(root / "Au"):  # a file system that notes reads also shows those made outside Python
        assert accessed(masks) == []

    for path in masks.iterdir():
        path.write_bytes(b"rubbish")
    assert run(root, tmp_path / "two") == with_masks
    shutil.rmtree(masks)
    assert run(root, tmp_path / "three") == with_masks
