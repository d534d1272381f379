"""HECL's anchors, the patches with edges that a batch gives to the contrast, and its key queues.

Selection (4): w_lc = softmax_c(scale * s_l)_c * M over the valid patches with M > 0; a picture
gives its K best by w_l,fake as manipulated edges, its K best by w_l,real as authentic ones, or both
(GIVERS). The class probability, never the cosine: where that is negative, s * M prefers the *least*
edge. A tampered picture's w_l,real is without M: a seam is an edge, too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from sapl_jax.clip.blocks import Trainable, l2_normalize, lecun_stacked
from sapl_jax.devices import AXIS
from sapl_jax.models.localization import TAMPERED

# Who gives: [called 0 or 1][own label is 0 or 1] -> may it give (authentic, manipulated) edges?
_LABEL, _BOTH = ((True, False), (False, True)), ((True, False), (True, True))
_MISSED = ((True, False), (False, False))  # Patches of a forgery that is not found are guesses.
GIVERS = {"label": [_LABEL] * 2, "tampered_both": [_BOTH] * 2, "found_both": [_MISSED, _BOTH]}


class Anchors(NamedTuple):
    """Edge-patch features of a batch, by the class they stand for: 0 authentic, 1 manipulated."""

    features: Array  # [L, B, 2, K, D] float32 unit vectors
    valid: Array  # [B, 2, K] bool: false beyond a picture's usable patches, or if it gives none


class ProjectionHeads(nnx.Module):
    """Per tap, an MLP from the joint space to contrast features: P -> P -> D, L2-normalised."""

    def __init__(self, num_taps: int, width: int, dim: int, rngs: nnx.Rngs):
        """`width`: of the joint image-text space; `dim`: of the features. All float32."""
        self.dim = dim
        self.hidden_kernel = Trainable(lecun_stacked(rngs, (num_taps, width, width)))
        self.hidden_bias = Trainable(jnp.zeros((num_taps, width)))
        self.out_kernel = Trainable(lecun_stacked(rngs, (num_taps, width, dim)))
        self.out_bias = Trainable(jnp.zeros((num_taps, dim)))

    def __call__(self, x: Array) -> Array:
        """[L, ..., P] -> unit vectors [L, ..., D], float32."""
        shape = x.shape
        x = x.astype(jnp.float32).reshape(shape[0], -1, shape[-1])
        x = jnp.einsum("lnp,lpq->lnq", x, self.hidden_kernel[...]) + self.hidden_bias[...][:, None]
        x = jax.nn.relu(x)
        x = jnp.einsum("lnp,lpd->lnd", x, self.out_kernel[...]) + self.out_bias[...][:, None]
        return l2_normalize(x).reshape(*shape[:-1], -1)


def select_patches(
    similarity: Array, scale: Array, edge_map: Array, valid: Array, tampered: Array, hecl: Any
) -> tuple[Array, Array]:
    """The K best patches of each picture for either class, (indices [L,B,2,K], usable [B,K]).

    With edges, a patch is usable when it is valid and has some edge (M > 0); without, when valid.

    Args:
        similarity: [L, B, T, 2] cosine of patch and prompt, authentic first.
        scale: CLIP's logit scale, scalar.
        edge_map: [B, T] in [0,1]; ignored (taken as 1) without `hecl.use_edges`.
        valid: [B, T] bool, patches inside the picture.
        tampered: [B] bool, by their labels.
        hecl: that part of a configuration; of its `top_k` at most T are taken.
    """
    top_k = min(hecl.top_k, similarity.shape[2])
    usable = valid & (edge_map > 0) if hecl.use_edges else valid
    # Ranked by logarithms: at a scale of 100 small probabilities would all round to zero.
    weight = jax.nn.log_softmax(scale * similarity.astype(jnp.float32), axis=-1)
    if hecl.use_edges:
        plain = tampered[:, None, None] & (jnp.arange(2) != TAMPERED)
        weight += jnp.where(plain, 0.0, jnp.log(jnp.where(usable, edge_map, 1.0))[:, :, None])
    weight = jnp.where(usable[None, :, :, None], weight, -jnp.inf)
    _, indices = jax.lax.top_k(jnp.swapaxes(weight, -1, -2), top_k)
    return indices, jnp.arange(top_k)[None] < jnp.sum(usable, axis=-1)[:, None]


def make_anchors(
    heads: ProjectionHeads | None, embeddings: Array, indices: Array, usable: Array, gives: Array
) -> Anchors:
    """Anchors from the selected patches (`select_patches`) of joint-space embeddings [L,B,T,P].

    Without `heads` the contrast is in the joint space itself, behind the similarity's projection.
    `gives` [B,2] bool: which classes' edges a picture may give (GIVERS).
    """
    num_taps, batch, _, top_k = indices.shape
    flat = indices.reshape(num_taps, batch, 2 * top_k, 1)
    chosen = jnp.take_along_axis(embeddings, flat, axis=2)
    features = l2_normalize(chosen) if heads is None else heads(chosen)
    valid = usable[:, None] & gives[:, :, None]
    return Anchors(features.reshape(num_taps, batch, 2, top_k, -1), valid)


class Queues(NamedTuple):
    """FIFO queues of contrast keys; the class axis is 0 authentic, 1 manipulated."""

    keys: Array  # [L, 2, Q, D] float32, unit vectors; slots not filled yet are zero
    fill: Array  # [2] int32, filled slots of each class's queue, at most Q
    head: Array  # [2] int32, the slot the next key of each class goes to

    @property
    def filled(self) -> Array:
        """[2, Q] bool: which slots hold a key."""
        return jnp.arange(self.keys.shape[2])[None] < self.fill[:, None]


def empty_queues(num_taps: int, length: int, dim: int) -> Queues:
    """Queues without keys."""
    # Two arrays, not one twice: a buffer can be donated to the step only once.
    fill, head = jnp.zeros((2,), jnp.int32), jnp.zeros((2,), jnp.int32)
    return Queues(jnp.zeros((num_taps, 2, length, dim), jnp.float32), fill, head)


def enqueue(queues: Queues, new: Anchors) -> Queues:
    """Queues with the valid anchors of all replicas in as keys, oldest out.

    Keys enter in order; when more than Q of a class come at once, the last Q stay. Slots are
    computed modulo Q, because `dynamic_update_slice` would clamp at the end. Either all keys are
    gathered, or each replica's are summed in their slots, one key and zeros: equal to the last bit.
    """
    length = queues.keys.shape[2]
    member = jax.lax.all_gather(new.valid, AXIS, tiled=True).swapaxes(0, 1).reshape(2, -1)
    rank = jnp.cumsum(member, axis=1, dtype=jnp.int32)
    count = jnp.sum(member, axis=1, dtype=jnp.int32)
    head, number = queues.head[:, None], count[:, None]
    kept = member & (rank > number - length)
    slot = jnp.where(kept, (head + rank - 1) % length, length)  # Out of range: dropped.
    keys = jax.lax.stop_gradient(new.features).swapaxes(1, 2)
    keys = keys.reshape(*keys.shape[:2], -1, keys.shape[-1])
    classes = jnp.arange(2)[:, None]
    if slot.shape[1] > 2 * length:  # A sum moves each slot twice, a gather each key once.
        share = keys.shape[2]
        slot = jax.lax.dynamic_slice_in_dim(slot, jax.lax.axis_index(AXIS) * share, share, axis=1)
        own = jnp.zeros_like(queues.keys).at[:, classes, slot].set(keys, mode="drop")
        renewed = (jnp.arange(length) - head) % length < number
        stored = jnp.where(renewed[:, :, None], jax.lax.psum(own, AXIS), queues.keys)
    else:
        keys = jax.lax.all_gather(keys, AXIS, axis=2, tiled=True)
        stored = queues.keys.at[:, classes, slot].set(keys, mode="drop")
    return Queues(stored, jnp.minimum(queues.fill + count, length), (queues.head + count) % length)
