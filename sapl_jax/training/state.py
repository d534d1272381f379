"""The training state: everything that changes from step to step, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from sapl_jax.clip.blocks import Trainable
from sapl_jax.models.hecl import Queues, empty_queues
from sapl_jax.models.sapl import SAPL

PyTree = Any


class TrainState(NamedTuple):
    """State carried through the pmapped step; the same on every device."""

    step: jax.Array  # int32 scalar, optimizer steps done (skipped ones included)
    params: PyTree  # trainable parameters, nested dict of float32 arrays
    opt_state: optax.OptState  # of `params`
    queues: Queues  # HECL's keys
    bad_steps: jax.Array  # int32 scalar, steps in a row skipped for non-finite gradients


class FrozenModel(NamedTuple):
    """The rest of a model: its structure and CLIP's frozen weights."""

    graph: nnx.GraphDef
    params: PyTree


def split_model(model: SAPL) -> tuple[PyTree, FrozenModel]:
    """Trainable parameters and the frozen rest, split by variable type.

    The split is exhaustive: a variable that is neither `Trainable` nor `nnx.Param` is an error,
    so nothing trains or freezes by accident.
    """
    parts: tuple = nnx.split(model, Trainable, nnx.Param)
    graph, trainable, frozen = parts
    return nnx.to_pure_dict(trainable), FrozenModel(graph, nnx.to_pure_dict(frozen))


def merge_model(params: PyTree, frozen: FrozenModel) -> SAPL:
    """The model of trainable parameters and the frozen rest."""
    return nnx.merge(frozen.graph, params, frozen.params)


def make_optimizer(train: ConfigDict) -> optax.GradientTransformation:
    """AdamW without its learning rate: the step multiplies by the schedule's value.

    Learned context moves `train.prompt_rate` times as fast as the rest.
    """

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        context = names[0] == "prompts" and names[1] != "edge_tokens"
        return train.prompt_rate * update if context else update

    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(train.weight_decay),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates)),
    )


def init_state(
    params: PyTree, tx: optax.GradientTransformation, config: ConfigDict, feature_dim: int
) -> TrainState:
    """The state before the first step: fresh optimizer, empty queues of `feature_dim` wide keys."""
    queues = empty_queues(len(config.model.taps), config.model.hecl.queue_length, feature_dim)
    step, bad_steps = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # Two buffers: donated.
    return TrainState(step, params, tx.init(params), queues, bad_steps)
