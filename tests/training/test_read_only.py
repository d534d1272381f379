"""Folders that cannot be written are one clear error; those that need not be are only read."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.checkpoints import CheckpointFolder
from sapl_jax.errors import UserError
from sapl_jax.workdir import open_workdir

NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="sapl-read-only-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_a_plain_user():
    """Root may write anywhere, so the test runs as nobody where it was started by root."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_work_directory_is_a_clear_error(shared, tiny_config):
    shared.chmod(0o555)
    try:
        with (
            as_a_plain_user(),
            pytest.raises(UserError, match=r"run cannot be written.*--workdir"),
            open_workdir(shared / "run", tiny_config),
        ):
            pass
        with (
            as_a_plain_user(),
            pytest.raises(UserError, match="checkpoint folder .* cannot be written"),
        ):
            CheckpointFolder(shared / "checkpoints")
    finally:
        shared.chmod(0o755)


def test_checkpoints_in_a_read_only_folder_can_be_read(shared):
    state = {"a": jnp.arange(4.0)}
    series = CheckpointFolder(shared / "last")
    series.save(3, state, {"n": 1})
    series.wait()
    series.close()
    folders = [shared, *(path for path in shared.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with as_a_plain_user():
            reader = CheckpointFolder(shared / "last", read_only=True)
            assert reader.latest_step() == 3
            np.testing.assert_array_equal(reader.restore(3, state)["a"], state["a"])
            reader.close()
    finally:
        for folder in folders:
            folder.chmod(0o755)
