"""The data-parallel train and validation steps, their schedules, and what saves memory in them.

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

from sapl_jax.clip.blocks import LEVELS, Recompute
from sapl_jax.clip.config import VisionConfig
from sapl_jax.clip.towers import VisionTower
from sapl_jax.devices import AXIS
from sapl_jax.errors import UserError
from sapl_jax.models.losses import sapl_loss
from sapl_jax.models.sapl import score_and_patch_map
from sapl_jax.training.state import FrozenModel, PyTree, TrainState, merge_model

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Schedule = Callable[[jax.Array], jax.Array]
# Arrays of [B, T, D] that each level keeps of a block: its input, q, k, v, the attention's output
# after its projection, and the four that the MLP's first layer is wide.
_KEPT = {"none": 9, "mlp": 5, "blocks": 1}
# Of the memory that JAX may use; what is not modelled (copies, fragments) has the rest.
_SHARE = 0.85


def choose_recompute(
    remat: str, tower: VisionTower, shape: tuple[int, ...], devices: list[jax.Device]
) -> Recompute:
    """What `config.train.remat` means on a device; "auto" is the `fitting_level` of its memory.

    `shape`: of a device's share of a batch of pictures, [B, C, C, 3]. `devices`: those that train,
    of one kind; the memory of one of this process's is asked.
    """
    here = jax.process_index()
    device = next((d for d in devices if d.process_index == here), devices[0])
    if remat == "auto":
        try:
            limit = (device.memory_stats() or {}).get("bytes_limit")
        except (jax.errors.JaxRuntimeError, NotImplementedError):
            limit = None
        remat = fitting_level(tower.config, shape, tower.dtype, limit)
    # Compiled GPU programs copy what a scan keeps, to its stack and back: a fifth of all they move.
    return Recompute(remat, unroll=device.platform in ("gpu", "cuda", "rocm"))


def fitting_level(
    config: VisionConfig, shape: tuple[int, ...], dtype: jnp.dtype, limit: float | None
) -> str:
    """The level that recomputes least among those that fit into `limit` bytes; the last otherwise.

    The first where the limit is not known, as on CPUs. Within a tenth of what compilers say for
    ViT-L/14 (a test compares them).
    """
    if limit is None:
        return LEVELS[0]
    width, depth, size = config.hidden_size, config.num_hidden_layers, jnp.dtype(dtype).itemsize
    tokens = 1 + (shape[1] // config.patch_size) * (shape[2] // config.patch_size)
    one = shape[0] * tokens * width * size
    weights = 16 * depth * width**2 * size + 500e6  # Both towers, and all that trains with them.
    scores = 3 * shape[0] * config.num_attention_heads * tokens**2 * 4 if size == 4 else 0
    for level in LEVELS:
        if weights + scores + one * (_KEPT[level] * depth + 40) <= _SHARE * limit:
            break
    return level


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
        params, opt_state, queues = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
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


def make_score_step(
    graph: nnx.GraphDef, devices: list[jax.Device]
) -> Callable[[PyTree, PyTree, Batch], tuple[jax.Array, jax.Array]]:
    """The mapped validation step: scores [N,b] and heat maps of patches [N,b,g,g], float32."""

    def score_step(params: PyTree, frozen: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = merge_model(params, FrozenModel(graph, frozen))
        return score_and_patch_map(model, batch["image"], batch["edge_map"], batch["valid"])

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
    if not train.warmup_steps:
        return rest
    warmup = optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
    return optax.join_schedules([warmup, rest], [train.warmup_steps])


def hecl_schedule(final: float, num_steps: int) -> Schedule:
    """w(t) of Eq. (7): linear from 0 at the first step to `final` at the end of training."""
    return lambda step: final * jnp.minimum(step / num_steps, 1.0)
