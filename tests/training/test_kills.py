"""Exact resume: a run that is killed again and again ends as one that is not, to the last bit."""

import json
import subprocess

import pytest

from sapl_jax.files import write_json
from tests.training.run_in_memory import command, environment
from tests.training.run_records import checkpoint_digests, metric_lines


def kill_and_compare(config, folder, kills, seed):
    """Numbers of what the kills hit; asserts that the run ended as the undisturbed one."""
    config.train.eval_every = 5
    config.train.checkpoint_every = 2
    folder.joinpath("config").mkdir()
    write_json(folder / "config" / "config.json", config.to_dict())
    result = subprocess.run(
        command(folder / "config", folder / "run", "--kills", kills, "--seed", seed),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=kills * 30 + 120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    hit = json.loads(result.stdout.splitlines()[-1])
    whole, parts = folder / "run.whole", folder / "run"
    assert metric_lines(parts) == metric_lines(whole)
    assert len(metric_lines(whole)) > config.train.num_steps
    assert checkpoint_digests(parts) == checkpoint_digests(whole)
    assert not list(parts.glob("checkpoints/damaged*"))
    assert hit["kills"] == kills
    return hit


def test_a_run_killed_20_times_ends_like_one_never_killed(tiny_config, tmp_path):
    tiny_config.train.num_steps = 40
    hit = kill_and_compare(tiny_config, tmp_path, kills=20, seed=0)
    assert hit["inside a checkpoint write"] >= 3


@pytest.mark.slow
def test_a_run_killed_100_times_ends_like_one_never_killed(tiny_config, tmp_path):
    tiny_config.train.num_steps = 300
    hit = kill_and_compare(tiny_config, tmp_path, kills=100, seed=1)
    print(hit)
    assert hit["inside a checkpoint write"] >= 15
