"""The two key queues of HECL as a functional value: authentic and manipulated, per tap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Queues(NamedTuple):
    """FIFO queues of contrast keys; the class axis is 0 authentic, 1 manipulated.

    Attributes:
        keys: [L, 2, Q, D] float32, unit vectors; slots not filled yet are zero.
        fill: [2] int32, filled slots of each class's queue, at most Q.
        head: [2] int32, the slot the next key of each class goes to.
    """

    keys: jax.Array
    fill: jax.Array
    head: jax.Array


def empty_queues(num_taps: int, length: int, dim: int) -> Queues:
    """Queues without keys."""
    # Two arrays, not one twice: a buffer can be donated to the step only once.
    return Queues(
        keys=jnp.zeros((num_taps, 2, length, dim), jnp.float32),
        fill=jnp.zeros((2,), jnp.int32),
        head=jnp.zeros((2,), jnp.int32),
    )


def filled(queues: Queues) -> jax.Array:
    """[2, Q] bool: which slots hold a key."""
    return jnp.arange(queues.keys.shape[2])[None] < queues.fill[:, None]


def enqueue(queues: Queues, keys: jax.Array, valid: jax.Array, label: jax.Array) -> Queues:
    """Queues with new keys in, the oldest out.

    Keys enter in order; when more than Q of a class come at once, the last Q stay. Slots are
    computed modulo Q, because `dynamic_update_slice` would clamp at the end.

    Args:
        queues: the queues before.
        keys: [L, N, D] new keys.
        valid: [N] bool; only these enter.
        label: [N] int32, the class of each key.
    """
    length = queues.keys.shape[2]
    new_keys, new_fill, new_head = queues
    for c in range(2):
        member = valid & (label == c)
        count = jnp.sum(member, dtype=jnp.int32)
        rank = jnp.cumsum(member, dtype=jnp.int32) - 1
        slot = (queues.head[c] + rank) % length
        slot = jnp.where(member & (rank >= count - length), slot, length)  # Out of range: dropped.
        new_keys = new_keys.at[:, c, slot].set(keys.astype(jnp.float32), mode="drop")
        new_fill = new_fill.at[c].set(jnp.minimum(queues.fill[c] + count, length))
        new_head = new_head.at[c].set((queues.head[c] + count) % length)
    return Queues(new_keys, new_fill, new_head)
