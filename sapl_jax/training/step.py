"""The data-parallel train and validation steps.

`train_step` is written for one replica: it sees its share of the batch and the whole state, and
talks to the other replicas through collectives over the axis "data". Gradients are averaged; the
queue keys of all replicas are gathered, so every replica enqueues the same global batch; means
over HECL's anchors are global. N devices therefore equal one device at the same global batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from sapl_jax.devices import AXIS
from sapl_jax.models.hecl import ProjectionHeads, contrast, make_anchors, select_patches
from sapl_jax.models.localization import TAMPERED, background_loss
from sapl_jax.models.queues import Queues, enqueue
from sapl_jax.models.sapl import Outputs
from sapl_jax.training.schedules import Schedule
from sapl_jax.training.state import FrozenModel, PyTree, TrainState, merge_model

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def hecl_loss(
    heads: ProjectionHeads, outputs: Outputs, batch: Batch, queues: Queues, hecl: ConfigDict
) -> tuple[jax.Array, Queues]:
    """This replica's share of L_HECL, Eq. (6), and the queues with the global batch enqueued.

    L_HECL is the mean over taps of L+ + L-, each a mean over the anchors of all replicas. The
    share is scaled so that the mean of the shares over the replicas is L_HECL.
    """
    label = batch["label"]
    edge_map = batch["edge_map"].reshape(label.shape[0], -1)
    valid = batch["valid"].reshape(label.shape[0], -1)
    indices, usable = select_patches(
        jax.lax.stop_gradient(outputs.similarity),
        edge_map,
        valid,
        label,
        top_k=hecl.top_k,
        use_edges=hecl.use_edges,
    )
    anchors = make_anchors(heads, outputs.embeddings, indices, usable, label)
    sums, counts = contrast(anchors, queues, hecl.temperature)
    counts = jnp.maximum(jax.lax.psum(counts, AXIS), 1.0)
    loss = jnp.mean(jnp.sum(sums / counts, axis=-1)) * jax.lax.axis_size(AXIS)

    features = jax.lax.stop_gradient(anchors.features)
    keys = jax.lax.all_gather(features, AXIS, axis=1, tiled=True)
    key_valid = jax.lax.all_gather(anchors.valid, AXIS, axis=0, tiled=True)
    key_label = jax.lax.all_gather(anchors.label, AXIS, axis=0, tiled=True)
    keys = keys.reshape(keys.shape[0], -1, keys.shape[-1])
    return loss, enqueue(queues, keys, key_valid.reshape(-1), key_label.reshape(-1))


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
    hecl = config.model.hecl

    def train_step(state: TrainState, frozen: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        weight = hecl_weight(state.step)

        def loss_of(params: PyTree) -> tuple[jax.Array, tuple]:
            model = merge_model(params, FrozenModel(graph, frozen))
            outputs = model(
                batch["image"], batch["edge_map"], batch["valid"], remat=config.train.remat
            )
            entropy = optax.softmax_cross_entropy_with_integer_labels(
                outputs.image_logits, batch["label"]
            )
            tampered = batch["label"] == TAMPERED
            loss_cls = jnp.mean(jnp.where(tampered, config.train.tampered_weight, 1.0) * entropy)
            loss_background = jnp.zeros(())
            if config.train.background_share:
                loss_background = background_loss(
                    outputs.similarity,
                    model.scale,
                    batch["valid"].reshape(batch["label"].shape[0], -1),
                    config.train.background_share,
                )
            loss_hecl, queues = jnp.zeros(()), state.queues
            if model.heads is not None:
                loss_hecl, queues = hecl_loss(model.heads, outputs, batch, state.queues, hecl)
            correct = jnp.argmax(outputs.image_logits, axis=-1) == batch["label"]
            parts = {
                "loss_cls": loss_cls,
                "loss_background": loss_background,
                "loss_hecl": loss_hecl,
                "accuracy": jnp.mean(correct, dtype=jnp.float32),
            }
            loss = loss_cls + config.train.background_weight * loss_background
            return loss + weight * loss_hecl, (parts, queues)

        (loss, (parts, queues)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads = jax.lax.pmean(grads, AXIS)
        parts = jax.lax.pmean(parts | {"loss": loss}, AXIS)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(parts["loss"])

        rate = learning_rate(state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        new = (params, opt_state, queues)
        old = (state.params, state.opt_state, state.queues)
        params, opt_state, queues = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        bad_steps = jnp.where(finite, 0, state.bad_steps + 1)

        metrics = parts | {
            "hecl_weight": weight,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "queue_fill": jnp.mean(queues.fill / hecl.queue_length),
            "bad_steps": bad_steps,
        }
        if "stop" in batch:
            metrics["stop"] = jax.lax.psum(batch["stop"], AXIS)
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return TrainState(state.step + 1, params, opt_state, queues, bad_steps), metrics

    return jax.pmap(
        train_step,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )


def make_score_step(
    graph: nnx.GraphDef, devices: list[jax.Device]
) -> Callable[[PyTree, PyTree, Batch], jax.Array]:
    """The mapped validation step: (params, frozen, batch) -> image scores [N,b] float32."""

    def score_step(params: PyTree, frozen: PyTree, batch: Batch) -> jax.Array:
        model = merge_model(params, FrozenModel(graph, frozen))
        outputs = model(batch["image"], batch["edge_map"], batch["valid"])
        return jax.nn.softmax(outputs.image_logits, axis=-1)[:, TAMPERED]

    return jax.pmap(score_step, axis_name=AXIS, in_axes=(None, None, 0), devices=devices)
