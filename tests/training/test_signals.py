"""SIGTERM: saved and gone within 30 seconds, wherever it comes."""

import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp

from sapl_jax.models.sapl import build_sapl
from sapl_jax.training import loop
from sapl_jax.training.loop import train
from sapl_jax.training.signals import GRACE_S
from sapl_jax.workdir import open_workdir
from tests.training.memory_data import MemoryData
from tests.training.run_records import checkpoint_digests, metric_lines


def run(config, workdir, data):
    with open_workdir(workdir, config):
        return train(config, workdir, build_sapl(config, jnp.float32), data)


class InterruptedInValidation(MemoryData):
    """The signal comes while the held-out pictures are read."""

    def val_batches(self):
        for n, batch in enumerate(super().val_batches()):
            if n == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def test_a_stop_during_validation_is_immediate_and_the_validation_is_made_up_for(
    tiny_config, tmp_path
):
    run(tiny_config, tmp_path / "whole", MemoryData())
    assert run(tiny_config, tmp_path / "parts", InterruptedInValidation()) == signal.SIGTERM
    assert max(row["step"] for row in metric_lines(tmp_path / "parts")) == 3
    assert "val_i_auc" not in (tmp_path / "parts" / "metrics.jsonl").read_text()
    # Stopped again in the same place, and then in the validation after the last step.
    assert run(tiny_config, tmp_path / "parts", InterruptedInValidation()) == signal.SIGTERM
    assert run(tiny_config, tmp_path / "parts", MemoryData()) is None
    assert metric_lines(tmp_path / "parts") == metric_lines(tmp_path / "whole")
    parts, whole = (checkpoint_digests(tmp_path / name) for name in ("parts", "whole"))
    assert parts == whole


def test_a_stop_while_the_step_is_compiled_ends_after_one_step(tiny_config, tmp_path, monkeypatch):
    compile_train_step = loop.compile_train_step

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return compile_train_step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_train_step", interrupted)
        assert run(tiny_config, tmp_path / "parts", MemoryData()) == signal.SIGTERM
    assert [row["step"] for row in metric_lines(tmp_path / "parts")] == [1]
    run(tiny_config, tmp_path / "whole", MemoryData())
    assert run(tiny_config, tmp_path / "parts", MemoryData()) is None
    assert metric_lines(tmp_path / "parts") == metric_lines(tmp_path / "whole")


STUCK = """
import os, signal, time
from sapl_jax.training import signals
signals.GRACE_S = 0.5
with signals.StopRequest():
    os.kill(os.getpid(), signal.{signal})
    time.sleep({seconds})  # Like a compilation: the main thread does not come back.
"""


def run_stuck(**values):
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", STUCK.format(**values)], capture_output=True, text=True, timeout=60
    )
    return result, time.monotonic() - start


def test_a_process_that_cannot_reach_the_end_of_its_step_is_ended_in_time():
    result, seconds = run_stuck(signal="SIGTERM", seconds=50)
    assert (result.returncode, result.stdout) == (143, "")
    assert "stopped by SIGTERM" in result.stderr and "continue" in result.stderr
    assert seconds < 20
    assert GRACE_S < 30


def test_only_sigterm_has_a_deadline():
    result, _ = run_stuck(signal="SIGINT", seconds=1.5)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_run_that_leaves_in_time_is_left_alone():
    result, _ = run_stuck(signal="SIGTERM", seconds=0.1)
    assert (result.returncode, result.stderr) == (0, "")
