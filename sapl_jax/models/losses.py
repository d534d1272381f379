"""The training objective: classification, HECL's contrast, and the background term.

L = L_cls + w(t) L_HECL, Eq. (7), plus the background term where it is on. All are written for one
replica of a data-parallel step; means over HECL's anchors are taken over all replicas.
"""

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from sapl_jax.devices import AXIS
from sapl_jax.models.hecl import GIVERS, Anchors, Queues, enqueue, make_anchors, select_patches
from sapl_jax.models.localization import TAMPERED, tampered_margin
from sapl_jax.models.sapl import SAPL, Outputs

Arrays = dict[str, Array]


def sapl_loss(
    model: SAPL,
    outputs: Outputs,
    batch: Arrays,
    queues: Queues,
    train: ConfigDict,
    hecl_weight: Array,
) -> tuple[Array, tuple[Arrays, Queues]]:
    """This replica's loss, (its parts, the queues with the global batch enqueued).

    Parts are the scalars loss_cls, loss_background, loss_hecl and accuracy.

    Args: `batch` has valid [B,g,g] and label [B], `outputs` are the model's of it, `queues` those
        before it; `train` is that part of a configuration; `hecl_weight` is w(t).
    """
    label = batch["label"]
    valid = batch["valid"].reshape(label.shape[0], -1)
    correct = jnp.argmax(outputs.image_logits, axis=-1) == label
    parts = {
        "loss_cls": classification_loss(outputs.logits, label, train.tampered_weight),
        "loss_background": jnp.zeros(()),
        "loss_hecl": jnp.zeros(()),
        "accuracy": jnp.mean(correct, dtype=jnp.float32),
    }
    if train.background_share:
        counted = (label != TAMPERED) | (train.background_of == "all")
        parts["loss_background"] = background_loss(
            outputs.similarity, model.scale, valid, train.background_share, counted
        )
    if model.options.hecl.enabled:
        parts["loss_hecl"], queues = hecl_loss(model, outputs, valid, label, queues)
    loss = parts["loss_cls"] + train.background_weight * parts["loss_background"]
    return loss + hecl_weight * parts["loss_hecl"], (parts, queues)


def classification_loss(logits: Array, label: Array, tampered_weight: float) -> Array:
    """Cross entropy of the logits [S,B,2] of S sources, summed over them; mean over the batch.

    Tampered pictures have the weight `tampered_weight`, authentic ones 1.
    """
    own = jnp.take_along_axis(logits, label[None, :, None], axis=-1).squeeze(-1)
    entropy = jax.nn.logsumexp(logits, axis=-1) - own
    return jnp.mean(jnp.where(label == TAMPERED, tampered_weight, 1.0) * jnp.sum(entropy, axis=0))


def background_loss(
    similarity: Array, scale: Array, valid: Array, share: float, counted: Array
) -> Array:
    """Mean over the batch of the cross entropy of pictures' background being authentic, scalar.

    The background of a picture is the `share` of its valid patches that look least tampered, as the
    surroundings of a forgery, which look different from it, may light up in its place. Ours: that
    forgeries cover less than 1 - share; over authentic pictures alone, no more than their label.

    Args: as in `pooled_logits`; `share` in (0,1]; `counted` [B] bool, the pictures that have a
        background to learn from; the others count as zero.
    """
    margin = tampered_margin(similarity, scale)
    rank = jnp.argsort(jnp.argsort(jnp.where(valid, margin, jnp.inf), axis=1), axis=1)
    chosen = valid & (rank < share * jnp.sum(valid, axis=1, keepdims=True))
    losses = jnp.sum(jnp.where(chosen, jax.nn.softplus(margin), 0.0), axis=1)
    losses /= jnp.maximum(jnp.sum(chosen, axis=1), 1)
    return jnp.mean(jnp.where(counted, losses, 0.0))


def hecl_loss(
    model: SAPL, outputs: Outputs, valid: Array, label: Array, queues: Queues
) -> tuple[Array, Queues]:
    """This replica's share of L_HECL, Eq. (6), and the queues with the global batch enqueued.

    L_HECL is the mean over taps of L+ + L-, each a mean over the anchors of all replicas. The
    share is scaled so that the mean of the shares over the replicas is L_HECL.

    Args: as in `sapl_loss`, but valid [B,T].
    """
    hecl = model.options.hecl
    given = jax.lax.stop_gradient(outputs.similarity), model.scale, outputs.edge_map, valid
    indices, usable = select_patches(*given, label == TAMPERED, hecl)
    called = jnp.argmax(outputs.image_logits, axis=-1)
    gives = jnp.asarray(GIVERS[hecl.givers])[called, label]
    anchors = make_anchors(model.heads, outputs.embeddings, indices, usable, gives)
    sums, counts = contrast(anchors, queues, hecl.temperature)
    counts = jnp.maximum(jax.lax.psum(counts, AXIS), 1.0)
    loss = jnp.mean(jnp.sum(sums / counts, axis=-1)) * jax.lax.axis_size(AXIS)
    return loss, enqueue(queues, anchors)


def contrast(anchors: Anchors, queues: Queues, temperature: float) -> tuple[Array, Array]:
    """Summed contrast losses and the number of anchors behind each sum, Eq. (5).

    For an anchor f against the two queues of its tap,

        k+ = argmax over the queue of f's class of cos(f, k)
        loss = -log( e^{cos(f,k+)/tau}
                     / (e^{cos(f,k+)/tau} + sum over the other queue e^{cos(f,k-)/tau}) ).

    The positive key and tau are ours. An anchor whose own queue is empty has no positive key and
    does not count. Keys carry no gradient. Division by the count over all devices is the caller's.

    Returns:
        The loss summed over the anchors of each class at each tap, float32 [L, 2], and the anchors
        of each class that count, float32 [2].
    """
    keys = jax.lax.stop_gradient(queues.keys)
    sums, counts = [], []
    for c in range(2):
        features = anchors.features[:, :, c].reshape(keys.shape[0], -1, keys.shape[-1])
        member = anchors.valid[:, c].reshape(-1) & (queues.fill[c] > 0)
        # Unit vectors: the product is the cosine.
        logits = jnp.einsum("lnd,lcqd->lncq", features, keys) / temperature
        logits = jnp.where(queues.filled[None, None], logits, -jnp.inf)
        positive = jnp.max(logits[:, :, c], axis=-1, keepdims=True)
        terms = jnp.concatenate([positive, logits[:, :, 1 - c]], axis=-1)
        # Rows that do not count may hold only -inf, whose logsumexp has a NaN gradient.
        terms = jnp.where(member[None, :, None], terms, 0.0)
        loss = jax.nn.logsumexp(terms, axis=-1) - terms[..., 0]
        sums.append(jnp.sum(jnp.where(member, loss, 0.0), axis=-1))
        counts.append(jnp.sum(member, dtype=jnp.float32))
    return jnp.stack(sums, axis=-1), jnp.stack(counts)
