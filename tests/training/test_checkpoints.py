"""Checkpoints: what is restored is what was saved, or an error that says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.errors import UserError
from sapl_jax.training import checkpoints
from sapl_jax.training.checkpoints import CheckpointFolder


@pytest.fixture
def state():
    return {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2), jnp.int32), jnp.float32(4.0))}


def saved(folder, state, step=1):
    series = CheckpointFolder(folder, keep=2)
    series.save(step, state, {"i_auc": 0.5})
    series.wait()
    return series


def test_a_state_comes_back_equal(tmp_path, state):
    series = saved(tmp_path, state)
    back = series.restore(1, state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert series.record(1)["i_auc"] == 0.5


def test_every_difference_is_named(tmp_path, state):
    series = saved(tmp_path, state)
    wrong = {"a": jnp.arange(4.0), "b": (jnp.ones((2, 2)), jnp.float32(4.0)), "c": jnp.zeros(1)}
    with pytest.raises(UserError) as error:
        series.restore(1, wrong)
    text = str(error.value)
    assert "a: expected float32[4], found float32[3]" in text
    assert "b/0: expected float32[2, 2], found int32[2, 2]" in text
    assert "missing: c" in text


def test_only_the_newest_stay(tmp_path, state):
    series = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3):
        series.save(step, state, {})
    series.wait()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 3]


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 7)
    series = saved(tmp_path, state)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 7.*reads format 2.*Update sapl_jax"):
        series.record(1)
