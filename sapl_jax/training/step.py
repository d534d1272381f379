"""The data-parallel train and validation steps, and their schedules.

`train_step` is written for one replica: it sees its share of the batch and the whole state, and
talks to the other replicas through collectives over the axis "data". Gradients are averaged; every
replica enqueues the keys of the whole global batch (`hecl.enqueue`); means over HECL's anchors
are global. N devices therefore equal one device at the same global batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from data_pipelines.preprocess import Geometry
from sapl_jax.devices import AXIS
from sapl_jax.errors import UserError
from sapl_jax.models.losses import sapl_loss
from sapl_jax.models.sapl import SAPL, score_and_patch_map
from sapl_jax.training.memory import choose_recompute
from sapl_jax.training.state import (
    FrozenModel,
    PyTree,
    TrainState,
    init_state,
    merge_model,
    split_model,
)

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Schedule = Callable[[jax.Array], jax.Array]


def make_train_step(
    graph: nnx.GraphDef,
    tx: optax.GradientTransformation,
    config: ConfigDict,
    learning_rate: Schedule,
    hecl_weight: Schedule,
    devices: list[jax.Device],
) -> jax.stages.Wrapped:
    """The mapped step: (state, frozen parameters, batch) -> (state, metrics).

    State and frozen parameters have no device axis; the batch has one in front: image
    [N,b,C,C,3] uint8, edge_map [N,b,g,g], valid [N,b,g,g], label [N,b], and optionally stop [N]
    float32. The state is donated. Metrics are float32 scalars: loss, loss_cls, loss_background,
    loss_hecl, hecl_weight, learning_rate, grad_norm, accuracy, queue_fill (mean share of filled
    slots), bad_steps, and with stop its sum over the devices: every process learns of a request to
    stop at the same step, without a collective of its own to wait for.

    A step whose gradients are not finite changes nothing but the counters.
    """

    def train_step(state: TrainState, frozen: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        weight = hecl_weight(state.step)

        def loss_of(params: PyTree) -> tuple[jax.Array, tuple]:
            model = merge_model(params, FrozenModel(graph, frozen))
            tower, shape = model.clip.vision, batch["image"].shape
            recompute = choose_recompute(config.train.remat, tower, shape, devices)
            outputs = model(batch["image"], batch["edge_map"], batch["valid"], recompute=recompute)
            return sapl_loss(model, outputs, batch, state.queues, config.train, weight)

        (loss, (parts, queues)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads = jax.lax.pmean(grads, AXIS)
        parts = jax.lax.pmean(parts | {"loss": loss}, AXIS)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(parts["loss"])

        rate = learning_rate(state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        new, old = (params, opt_state, queues), (state.params, state.opt_state, state.queues)
        params, opt_state, queues = optax.tree.where(finite, new, old)
        bad_steps = jnp.where(finite, 0, state.bad_steps + 1)

        metrics = parts | {
            "hecl_weight": weight, "learning_rate": rate, "grad_norm": grad_norm,
            "queue_fill": jnp.mean(queues.fill / config.model.hecl.queue_length),
            "bad_steps": bad_steps,
        }  # fmt: skip
        if "stop" in batch:
            metrics["stop"] = jax.lax.psum(batch["stop"], AXIS)
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return TrainState(state.step + 1, params, opt_state, queues, bad_steps), metrics

    return jax.pmap(
        train_step, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0, devices=devices
    )


def batch_shapes(
    config: ConfigDict, patch: int, lead: tuple[int, ...]
) -> dict[str, jax.ShapeDtypeStruct]:
    """What a step takes of pictures, as shapes: image, edge_map and valid with `lead` in front."""
    geometry = Geometry(config.image.size, patch)
    canvas, grid = geometry.canvas, geometry.grid
    return {
        "image": jax.ShapeDtypeStruct((*lead, canvas, canvas, 3), jnp.uint8),
        "edge_map": jax.ShapeDtypeStruct((*lead, grid, grid), jnp.float32),
        "valid": jax.ShapeDtypeStruct((*lead, grid, grid), jnp.bool_),
    }


def compile_train_step(
    step: jax.stages.Wrapped, model: SAPL, tx: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]:
    """`make_train_step`'s for the batches of a run, from shapes: weights may still be read.

    A batch is image, edge_map, valid, label and stop, of the configuration's sizes, and no other.

    In a run of several processes pmap takes arrays only, and compiles at the first step.
    """
    if jax.process_count() > 1:
        return step
    params, frozen = split_model(model)
    state = jax.eval_shape(lambda p: init_state(p, tx, config, model.feature_dim), params)
    lead = jax.device_count(), config.train.batch_size // jax.device_count()
    batch = batch_shapes(config, model.clip.config.vision.patch_size, lead)
    batch["label"] = jax.ShapeDtypeStruct(lead, jnp.int32)
    batch["stop"] = jax.ShapeDtypeStruct(lead[:1], jnp.float32)
    return step.lower(state, frozen.params, batch).compile()


def make_score_step(
    graph: nnx.GraphDef, devices: list[jax.Device]
) -> Callable[[PyTree, PyTree, Batch], tuple[jax.Array, jax.Array]]:
    """The mapped validation step: scores [N,b] and heat maps of patches [N,b,g,g], float32.

    Without `model.test_views`: it would cost eight times as much and rank checkpoints alike.
    """

    def score_step(params: PyTree, frozen: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = merge_model(params, FrozenModel(graph, frozen))
        inputs = batch["image"], batch["edge_map"], batch["valid"]
        return score_and_patch_map(model, *inputs, views=False)

    return jax.pmap(score_step, axis_name=AXIS, in_axes=(None, None, 0), devices=devices)


def rate_schedule(train: ConfigDict, num_steps: int) -> Schedule:
    """Learning rate of a step: linear warm-up, then constant or cosine to zero.

    UserError for a warm-up longer than the run.
    """
    if not 0 <= train.warmup_steps < max(num_steps, 1):
        raise UserError(
            f"config.train.warmup_steps is {train.warmup_steps}; expected at least 0 and fewer "
            f"than the {num_steps} steps of the run."
        )
    rest = optax.constant_schedule(train.learning_rate)
    if train.schedule == "cosine":
        rest = optax.cosine_decay_schedule(train.learning_rate, num_steps - train.warmup_steps)
    warmup = optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
    return optax.join_schedules([warmup, rest], [train.warmup_steps])
