"""Multi-head attention, and which implementation of it runs where."""

import jax
import jax.numpy as jnp

# Up to this many scores per head the plain einsum is fastest everywhere and its memory is small.
_DIRECT_SCORES = 256 * 256


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    """Softmax attention of already projected queries, keys and values.

    Args:
        q, k, v: [B, T, H, d], one floating dtype.
        causal: whether position t sees positions <= t only.

    Returns:
        [B, T, H, d] in the dtype of `q`. The softmax is computed in float32. Scale: d ** -0.5.
    """
    length, head_dim = q.shape[1], q.shape[3]
    platform = jax.default_backend()
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and half and head_dim % 8 == 0 and head_dim <= 128:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    if platform == "cpu" and length * length > _DIRECT_SCORES:
        return _attention_by_head(q, k, v, causal)
    # [B, T, H, d] <-> [B, H, T, d]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(_scores_and_values(q, k, v, causal), 1, 2)


def _attention_by_head(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    # One head at a time keeps the scores in the cache and, with the checkpoint, out of memory
    # between forward and backward: on CPUs 2-3 times faster than all heads at once.
    @jax.checkpoint
    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return _scores_and_values(*qkv, causal)

    def by_head(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 2, 0)

    out = jax.lax.map(one_head, (by_head(q), by_head(k), by_head(v)))
    return jnp.moveaxis(out, 0, 2)


def _scores_and_values(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Attention over the last two axes: q, k, v [..., T, d] -> [..., T, d]."""
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("...qd,...kd->...qk", q * scale, k, preferred_element_type=jnp.float32)
    if causal:
        length = q.shape[-2]
        past = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(past, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("...qk,...kd->...qd", weights, v)
