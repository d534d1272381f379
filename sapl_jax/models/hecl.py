"""HECL: contrast of authentic and manipulated edge patches at every tap.

Selection (4): w_lc = s_lc * M; an image gives its top K valid patches by the w of its own label's
class. Contrast (5), for an anchor f against the two queues of its tap,

    k+ = argmax over the queue of f's class of cos(f, k)
    loss = -log( e^{cos(f,k+)/tau}
                 / (e^{cos(f,k+)/tau} + sum over the other queue e^{cos(f,k-)/tau}) ).

K, the labels' part in the selection, the positive key and tau are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.models.layers import HeadParam, l2_normalize, lecun_stacked
from sapl_jax.models.queues import Queues, filled


class Anchors(NamedTuple):
    """Edge-patch features of a batch.

    Attributes:
        features: [L, B, K, D] float32 unit vectors.
        valid: [B, K] bool; false where a picture has fewer than K usable patches.
        label: [B, K] int32, 0 authentic, 1 manipulated.
        patches: [L, B, K] int32, the index of each patch in the grid, row by row.
    """

    features: jax.Array
    valid: jax.Array
    label: jax.Array
    patches: jax.Array


class ProjectionHeads(nnx.Module):
    """Per tap, an MLP from the joint space to contrast features: P -> P -> D, L2-normalised."""

    def __init__(self, num_taps: int, width: int, dim: int, rngs: nnx.Rngs):
        """`width`: of the joint image-text space; `dim`: of the features. All float32."""
        self.hidden_kernel = HeadParam(lecun_stacked(rngs, (num_taps, width, width)))
        self.hidden_bias = HeadParam(jnp.zeros((num_taps, width)))
        self.out_kernel = HeadParam(lecun_stacked(rngs, (num_taps, width, dim)))
        self.out_bias = HeadParam(jnp.zeros((num_taps, dim)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[L, ..., P] -> unit vectors [L, ..., D], float32."""
        shape = x.shape
        x = x.astype(jnp.float32).reshape(shape[0], -1, shape[-1])
        x = jnp.einsum("lnp,lpq->lnq", x, self.hidden_kernel[...]) + self.hidden_bias[...][:, None]
        x = jax.nn.relu(x)
        x = jnp.einsum("lnp,lpd->lnd", x, self.out_kernel[...]) + self.out_bias[...][:, None]
        return l2_normalize(x).reshape(*shape[:-1], -1)


def select_patches(
    similarity: jax.Array,
    edge_map: jax.Array,
    valid: jax.Array,
    label: jax.Array,
    *,
    top_k: int,
    use_edges: bool,
) -> tuple[jax.Array, jax.Array]:
    """The top K patches of each image by w = s * M, as (indices [L,B,K], usable [B,K]).

    With edges, a patch is usable when it is valid and has some edge (M > 0); without, when valid.
    The number of usable patches does not depend on the tap.

    Args:
        similarity: [L, B, T, 2] cosine of patch and prompt.
        edge_map: [B, T]; ignored (taken as 1) when not `use_edges`.
        valid: [B, T] bool.
        label: [B] int32; an image's patches are ranked by the similarity to its own class.
        top_k: patches per image, lowered to T where the grid has fewer.
        use_edges: false for the ablation "HECL without edge".
    """
    top_k = min(top_k, similarity.shape[2])
    usable = valid & (edge_map > 0) if use_edges else valid
    own = jnp.take_along_axis(similarity, label[None, :, None, None], axis=-1)[..., 0]
    weight = own * edge_map[None] if use_edges else own
    _, indices = jax.lax.top_k(jnp.where(usable[None], weight, -jnp.inf), top_k)
    enough = jnp.arange(top_k)[None] < jnp.sum(usable, axis=-1)[:, None]
    return indices, enough


def make_anchors(
    heads: ProjectionHeads,
    embeddings: jax.Array,
    indices: jax.Array,
    usable: jax.Array,
    label: jax.Array,
) -> Anchors:
    """Anchors from the selected patches of joint-space embeddings [L,B,T,P]."""
    chosen = jnp.take_along_axis(embeddings, indices[..., None], axis=2)
    labels = jnp.broadcast_to(label[:, None], usable.shape)
    return Anchors(heads(chosen), usable, labels, indices)


def contrast(anchors: Anchors, queues: Queues, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Summed contrast losses and the number of anchors behind each sum.

    An anchor whose own queue is empty has no positive key and does not count. Keys carry no
    gradient. Division by the (global) count is the caller's, so that several devices give the
    mean over all of them.

    Returns:
        sums: [L, 2] float32, loss summed over the anchors of each class at each tap.
        counts: [2] float32, anchors of each class that count.
    """
    keys = jax.lax.stop_gradient(queues.keys)
    num_taps, _, _, dim = keys.shape
    features = anchors.features.reshape(num_taps, -1, dim)
    label, valid = anchors.label.reshape(-1), anchors.valid.reshape(-1)
    exists = filled(queues)
    # Unit vectors: the product is the cosine.
    logits = jnp.einsum("lnd,lcqd->lncq", features, keys) / temperature
    logits = jnp.where(exists[None, None], logits, -jnp.inf)

    sums, counts = [], []
    for c in range(2):
        member = valid & (label == c) & (queues.fill[c] > 0)
        positive = jnp.max(logits[:, :, c], axis=-1, keepdims=True)
        terms = jnp.concatenate([positive, logits[:, :, 1 - c]], axis=-1)
        # Rows that do not count may hold only -inf, whose logsumexp has a NaN gradient.
        terms = jnp.where(member[None, :, None], terms, 0.0)
        loss = jax.nn.logsumexp(terms, axis=-1) - terms[..., 0]
        sums.append(jnp.sum(jnp.where(member, loss, 0.0), axis=-1))
        counts.append(jnp.sum(member, dtype=jnp.float32))
    return jnp.stack(sums, axis=-1), jnp.stack(counts)
