"""Full disks, damaged checkpoints, bad gradients: a clear stop or a way round, and nothing lost."""

import errno
import os
import shutil
import subprocess

import jax.numpy as jnp
import pytest

from sapl_jax.errors import UserError
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training import step as step_module
from sapl_jax.training.loop import train
from sapl_jax.training.watching import MetricWriter
from sapl_jax.workdir import open_workdir, remember_config
from tests.small_files import largest_file
from tests.training.memory_data import MemoryData
from tests.training.run_records import checkpoint_digests, metric_lines


def run(config, workdir, data=None):
    with open_workdir(workdir, config):
        return train(config, workdir, build_sapl(config, jnp.float32), data or MemoryData())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def frequent(tiny_config):
    """Checkpoints after steps 2, 4 and 6, validations after 3 and 6."""
    tiny_config.train.checkpoint_every = 2
    return tiny_config


def test_a_run_falls_back_to_the_checkpoint_before_a_damaged_one(frequent, tmp_path, caplog):
    run(frequent, tmp_path)
    before = metric_lines(tmp_path), checkpoint_digests(tmp_path)
    largest = max((tmp_path / "checkpoints" / "last" / "6").rglob("d/*"), key=os.path.getsize)
    flip_a_bit(largest)
    (best,) = (tmp_path / "checkpoints" / "best").iterdir()
    (best / "record" / "metadata").unlink()
    assert run(frequent, tmp_path) is None
    assert "last/6 is damaged" in caplog.text and "trying the one before" in caplog.text
    assert "The best checkpoint is lost" in caplog.text
    # The steps after it were done again; what was damaged is kept aside.
    assert metric_lines(tmp_path) == before[0]
    after = checkpoint_digests(tmp_path)
    lasts = {name for name in before[1] if name.startswith("last/")}
    assert lasts == {"last/4", "last/6"}
    assert {name: after[name] for name in lasts} == {name: before[1][name] for name in lasts}
    aside = {path.name for path in (tmp_path / "checkpoints" / "damaged").iterdir()}
    assert aside == {"last-6", f"best-{best.name}"}
    # Where none is left, the run stops instead of silently starting anew.
    for step in ("4", "6"):
        shutil.rmtree(tmp_path / "checkpoints" / "last" / step / "state")
    with pytest.raises(UserError, match=r"(?s)No checkpoint is left.*last/6.*last/4"):
        run(frequent, tmp_path)


class Hindered(MemoryData):
    """Calls `hinder` when the batch of the sixth step is read, which is ahead of that step."""

    def __init__(self, hinder):
        super().__init__()
        self.hinder = hinder

    def train_batches(self, start_step):
        for n, batch in enumerate(super().train_batches(start_step), start_step):
            if n == 5:
                self.hinder()
            yield batch


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Writes until the disk is full."""
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            for size in (65536, 1):
                while file.write(b"x" * size) == size:
                    pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(frequent, tmp_path, small_disk):
    run(frequent, tmp_path / "whole")
    frequent.train.log_every = 100  # So that the checkpoint meets the full disk first.
    workdir = small_disk / "run"
    with pytest.raises(UserError, match="(?s)No space left.*same command"):
        run(frequent, workdir, Hindered(lambda: fill(small_disk)))
    assert set(checkpoint_digests(workdir)) >= {"last/2"}
    (small_disk / "ballast").unlink()
    assert run(frequent, workdir) is None
    assert checkpoint_digests(workdir) == checkpoint_digests(tmp_path / "whole")
    assert not list(workdir.glob("checkpoints/*/*tmp*"))


def test_a_log_that_cannot_be_written_is_a_clear_error_and_not_a_hang(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 0.5})
    with largest_file(200), pytest.raises(UserError, match="(?s)metrics.jsonl.*File too large"):
        for step in range(2, 100):
            writer.write(step, {"loss": 0.5})
    # A new writer goes on from the step that was saved, without the torn line.
    again = MetricWriter(tmp_path, 1)
    again.write(2, {"loss": 0.25})
    again.close()
    assert metric_lines(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_configuration_that_cannot_be_written_is_a_clear_error(tiny_config, tmp_path):
    with largest_file(10), pytest.raises(UserError, match="File too large"):
        remember_config(tmp_path, tiny_config)


class Poisoned(MemoryData):
    """Marks the batches of steps 3 and 4."""

    def train_batches(self, start_step):
        for n, batch in enumerate(super().train_batches(start_step), start_step + 1):
            batch["image"][:, 0, 0, 0] = 255 if n in (3, 4) else 0
            yield batch


@pytest.fixture
def bad_gradients(monkeypatch):
    """Marked batches get a finite loss whose gradients are not: the slope of sqrt at zero."""
    real = step_module.sapl_loss

    def sapl_loss(model, outputs, batch, *rest):
        loss, aux = real(model, outputs, batch, *rest)
        marked = batch["image"][0, 0, 0, 0] == 255
        zero = jnp.sum(outputs.image_logits) * 0.0
        return loss + jnp.sqrt(jnp.where(marked, zero, 1.0)) - jnp.where(marked, 0, 1), aux

    monkeypatch.setattr(step_module, "sapl_loss", sapl_loss)


def test_bad_gradients_are_skipped_counted_and_stop_the_run_when_too_many(
    tiny_config, tmp_path, bad_gradients, capfd
):
    tiny_config.train.log_every = 6
    assert run(tiny_config, tmp_path / "run", Poisoned()) is None
    rows = {row["step"]: row for row in metric_lines(tmp_path / "run") if "loss" in row}
    # Skipped steps are in the log although it has every sixth step only.
    assert {step: row["bad_steps"] for step, row in rows.items()} == {3: 1, 4: 2, 6: 0}
    assert "skipped, 2 in a row" in capfd.readouterr().out
    tiny_config.train.max_bad_steps = 1
    with pytest.raises(UserError, match="(?s)step 4: 2 steps in a row had gradients.*of step 3"):
        run(tiny_config, tmp_path / "strict", Poisoned())
    # The checkpoint before the bad steps is good: other data let the run continue.
    assert run(tiny_config, tmp_path / "strict") is None


def test_a_run_without_validation_split_says_so(tiny_config, tmp_path, capfd):
    class NoneHeldOut(MemoryData):
        def val_batches(self):
            return iter(())

    assert run(tiny_config, tmp_path, NoneHeldOut()) is None
    assert "step 3: no validation split, so no best checkpoint" in capfd.readouterr().out
    assert {name.split("/")[0] for name in checkpoint_digests(tmp_path)} == {"last"}
