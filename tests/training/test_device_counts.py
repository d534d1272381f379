"""Saved on two devices, continued on one and on four; with nowhere to keep compiled programs."""

import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.loop import train
from sapl_jax.workdir import open_workdir
from tests.training.run_in_memory import Share, command, environment
from tests.training.run_records import losses, metric_lines


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system with no space left, or one that cannot be made without root."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        yield "/proc/no_such_folder"
        return
    (folder / "ballast").write_bytes(bytes(4096))
    yield str(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_of_two_devices_continues_on_one_and_on_four(tiny_config, tmp_path, full_disk):
    tiny_config.train.num_steps = 8
    tiny_config.train.checkpoint_every = 4
    tiny_config.train.eval_every = 8
    two = tmp_path / "two"
    with open_workdir(two, tiny_config):
        assert jax.device_count() == 2
        train(tiny_config, two, build_sapl(tiny_config, jnp.float32), Share(tiny_config))
    for devices, cache in ((1, "/proc/no_such_folder"), (4, full_disk)):
        workdir = tmp_path / f"on_{devices}"
        shutil.copytree(two, workdir)
        shutil.rmtree(workdir / "checkpoints" / "last" / "8")
        result = subprocess.run(
            command(two, workdir),
            env=environment(devices, JAX_COMPILATION_CACHE_DIR=cache),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert "continuing from step 4 of 8" in result.stderr
        assert [row["step"] for row in metric_lines(workdir) if "loss" in row] == list(range(1, 9))
        np.testing.assert_allclose(losses(workdir), losses(two), rtol=1e-3)
        np.testing.assert_array_equal(losses(workdir)[:4], losses(two)[:4])
