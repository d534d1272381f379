"""A work directory of a finished tiny run, without the training: its weights are drawn."""

from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp

from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.run_checkpoints import RunCheckpoints
from sapl_jax.training.state import init_state, make_optimizer, split_model
from sapl_jax.workdir import open_workdir, remember_config


def make_run(workdir: Path, config) -> Path:
    """Saves a "best" checkpoint whose LoRA, prompts and heads are all far from their start."""
    with open_workdir(workdir, config):
        remember_config(workdir, config)
        model = build_sapl(config, jnp.float32)
        params, _ = split_model(model)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(7), len(leaves))
        moved = [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        params = jax.tree.unflatten(structure, moved)
        state = init_state(params, make_optimizer(config.train), config, model.feature_dim)
        checkpoints = RunCheckpoints(workdir, asdict(model.clip.source))
        checkpoints.save("best", 3, state, i_auc=0.75)
        checkpoints.wait()
        checkpoints.close()
    return workdir
