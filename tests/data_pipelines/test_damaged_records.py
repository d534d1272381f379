"""Prepared records after they were made: pictures may vanish, damage is noticed."""

import shutil

import numpy as np
import pytest

from data_pipelines.prepare import prepare
from data_pipelines.prepared import open_prepared
from data_pipelines.record_batches import eval_batches, train_batches
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import SMALL, make_casia


@pytest.fixture
def records(small_prepared, tmp_path):
    """A copy of prepared records, and its file of training pictures."""
    folder = shutil.copytree(small_prepared.dir, tmp_path / "records")
    return folder, max(folder.glob("*train*array_record*"), key=lambda path: path.stat().st_size)


def everything(prepared):
    """All examples, training pictures in their order."""
    return list(eval_batches(prepared, batch_size=4, split="train"))


def test_training_needs_the_records_and_not_the_pictures(tmp_path):
    root = make_casia(tmp_path / "casia")
    prepared = prepare("casia_v2", root, tmp_path / "out", SMALL)
    before = everything(prepared)
    shutil.rmtree(root)
    for a, b in zip(everything(open_prepared(prepared.dir)), before, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_flipped_bit_is_an_error_or_changes_nothing(records):
    folder, file = records
    good = file.read_bytes()
    expected = everything(open_prepared(folder))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        try:
            found = everything(open_prepared(folder))
        except UserError as error:
            assert "prepare the data again" in str(error)
            refused += 1
            continue
        for a, b in zip(found, expected, strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
    assert refused > 10


def test_records_cut_short_while_they_are_read_are_an_error(records):
    folder, file = records
    prepared = open_prepared(folder)  # Checks sizes, so the damage comes after it.
    batches = train_batches(prepared, batch_size=4, seed=0)
    next(batches)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 3)
    with pytest.raises(UserError, match="prepare the data again"):
        for _ in range(40):
            next(batches)
    with pytest.raises(UserError, match="bytes instead of"):
        open_prepared(folder)
