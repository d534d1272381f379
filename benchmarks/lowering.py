"""Lowers our training step from shapes alone: nothing is allocated, so any size can be compiled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sapl_jax.devices import compute_dtype
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training import schedules
from sapl_jax.training.state import init_state, make_optimizer, split_model
from sapl_jax.training.step import make_train_step


def lower_step(
    config: ConfigDict, devices: Sequence[jax.Device], platform: str | None = None
) -> jax.stages.Lowered:
    """The data-parallel step of a configuration on these devices, lowered.

    Args:
        config: its `clip.pretrained` should be "random:..." or a folder, of which only the shapes
            are used.
        devices: one replica for each.
        platform: "cuda", "tpu", ... for a program that these devices could not run; None: theirs.
    """
    dtype = compute_dtype(config.train.dtype)
    model = nnx.eval_shape(lambda: build_sapl(config, dtype))
    patch = model.clip.config.vision.patch_size
    params, frozen = split_model(model)
    tx = make_optimizer(config.train)
    dim = model.feature_dim
    state = jax.eval_shape(lambda params: init_state(params, tx, config, dim), params)
    step = make_train_step(
        frozen.graph,
        tx,
        config,
        schedules.learning_rate(config.train, 1000),
        schedules.hecl_weight(config.model.hecl.weight, 1000),
        list(devices),
    )
    grid = -(-config.image.size // patch)
    canvas = grid * patch
    shapes: dict[str, tuple[tuple[int, ...], jnp.dtype]] = {
        "image": ((canvas, canvas, 3), jnp.dtype("uint8")),
        "edge_map": ((grid, grid), jnp.dtype("float32")),
        "valid": ((grid, grid), jnp.dtype("bool")),
        "label": ((), jnp.dtype("int32")),
    }
    replicas = len(devices)
    lead = (replicas, config.train.batch_size // replicas)
    batch = {
        name: jax.ShapeDtypeStruct((*lead, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    if platform:
        traced = jax.jit(step).trace(state, frozen.params, batch)
        return traced.lower(lowering_platforms=(platform,))
    return step.lower(state, frozen.params, batch)
