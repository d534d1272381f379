"""Lowers our programs from shapes alone: CLIP is not allocated, so any size can be compiled."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from sapl_jax.devices import AXIS, compute_dtype, split_batch
from sapl_jax.models.sapl import open_sapl, score_and_patch_map, with_parts
from sapl_jax.training.state import PyTree, init_state, make_optimizer, merge_model, split_model
from sapl_jax.training.step import batch_shapes, make_train_step, rate_schedule


class Program(NamedTuple):
    """A mapped function and the shapes of its arguments."""

    function: jax.stages.Wrapped
    arguments: tuple

    def lower(self) -> jax.stages.Lowered:
        """For the devices it is mapped over."""
        return self.function.lower(*self.arguments)

    def trace(self) -> jax.stages.Traced:
        """What it computes, before a platform is chosen."""
        return jax.jit(self.function).trace(*self.arguments)


def lower_step(
    config: ConfigDict, devices: Sequence[jax.Device], platform: str | None = None
) -> jax.stages.Lowered:
    """`step_program`, lowered.

    Args:
        config, devices: see there.
        platform: "cuda", "tpu", ... for a program that these devices could not run; None: theirs.
    """
    program = step_program(config, devices)
    return program.trace().lower(lowering_platforms=(platform,)) if platform else program.lower()


def step_program(config: ConfigDict, devices: Sequence[jax.Device]) -> Program:
    """The data-parallel step of a configuration.

    Args:
        config: its `clip.pretrained` should be "random:..." or a folder, of which no weights
            are read.
        devices: one replica for each.
    """
    dtype = compute_dtype(config.train.dtype)
    model, _ = open_sapl(config, dtype)
    patch = model.clip.config.vision.patch_size
    params, frozen = split_model(model)
    tx = make_optimizer(config.train)
    state = jax.eval_shape(lambda params: init_state(params, tx, config, model.feature_dim), params)
    step = make_train_step(
        frozen.graph,
        tx,
        config,
        rate_schedule(config.train, 1000),
        optax.linear_schedule(0.0, config.model.hecl.weight, 1000),
        list(devices),
    )
    replicas = len(devices)
    batch = batch_shapes(config, patch, (replicas, config.train.batch_size // replicas))
    batch["label"] = jax.ShapeDtypeStruct(batch["image"].shape[:2], jnp.int32)
    return Program(step, (state, frozen.params, batch))


def prediction_program(config: ConfigDict, devices: Sequence[jax.Device]) -> Program:
    """What `predict` runs for `config.train.batch_size` pictures, split over the devices."""
    dtype = compute_dtype(config.train.dtype)
    model, _ = open_sapl(config, dtype, whole=True)
    patch = model.clip.config.vision.patch_size
    params, frozen = split_model(with_parts(model, heads=None))
    mesh = Mesh(np.asarray(devices), (AXIS,))
    shared, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))

    def predict(weights: PyTree, *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        sapl = merge_model(weights[0], frozen._replace(params=weights[1]))
        return score_and_patch_map(sapl, *batch)

    def placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    weights = jax.tree.map(lambda leaf: placed(leaf, shared), (params, frozen.params))
    batch = batch_shapes(config, patch, (config.train.batch_size,)).values()
    return Program(
        split_batch(predict, list(devices)), (weights, *(placed(leaf, split) for leaf in batch))
    )
