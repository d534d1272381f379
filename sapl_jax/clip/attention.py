"""Multi-head attention, and which implementation of it runs where."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Name of what blocked attention keeps for its backward pass, for checkpoint policies.
LOGSUMEXP = "attention_logsumexp"

# Up to this many scores per head the plain einsum is fastest everywhere and its memory is small.
_DIRECT_SCORES = 256 * 256
# Queries per block on CPUs, at most: larger blocks of scores fall out of the cache.
_BLOCK = 704


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
    # [B, T, H, d] <-> [B, H, T, d]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * head_dim**-0.5, k, v))
    if platform == "cpu" and not causal and length * length > _DIRECT_SCORES:
        return jnp.swapaxes(_blocked(q, k, v), 1, 2)
    return jnp.swapaxes(_direct(q, k, v, causal), 1, 2)


def _direct(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Attention over the last two axes, q scaled: q, k, v [..., T, d] -> [..., T, d]."""
    scores = _product("...qd,...kd->...qk", q, k)
    if causal:
        length = q.shape[-2]
        past = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(past, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("...qk,...kd->...qd", weights, v)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`_direct`, not causal, for CPUs: q, k, v [B, H, T, d] -> [B, H, T, d].

    One head and one block of queries at a time, so that the scores stay in the cache, and of the
    softmax only its logsumexp is kept for the backward pass (as in FlashAttention,
    arXiv 2205.14135; here every block sees all keys, so nothing is rescaled).
    """
    return _blocked_forward(q, k, v)[0]


def _blocked_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    length = q.shape[2]

    def one_head(qkv: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = qkv

        def one_block(q: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores = _product("qd,kd->qk", q, k)
            highest = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - highest)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            # Divided after the product: T * d divisions instead of T * T.
            out = _product("qk,kd->qd", weights.astype(v.dtype), v) / total
            return out.astype(v.dtype), (highest + jnp.log(total))[:, 0]

        out, logsumexp = jax.lax.map(one_block, _blocks(q))
        return _joined(out, length), _joined(logsumexp, length)

    out, logsumexp = jax.lax.map(one_head, tuple(_heads(x) for x in (q, k, v)))
    logsumexp = checkpoint_name(logsumexp, LOGSUMEXP)
    return out.reshape(q.shape), (q, k, v, logsumexp)


def _blocked_backward(kept: tuple, d_out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, logsumexp = kept
    length = q.shape[2]

    def one_head(head: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, logsumexp, d_out = head

        def one_block(
            sums: tuple[jax.Array, jax.Array], block: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            d_k, d_v = sums
            q, logsumexp, d_out = block
            weights = jnp.exp(_product("qd,kd->qk", q, k) - logsumexp[:, None])
            d_weights = _product("qd,kd->qk", d_out, v)
            mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
            d_scores = (weights * (d_weights - mean)).astype(k.dtype)
            # [d, T], so that the large factor of these products is not transposed.
            d_k += _product("dq,qk->dk", q.T, d_scores)
            d_v += _product("dq,qk->dk", d_out.T, weights.astype(d_out.dtype))
            return (d_k, d_v), _product("qk,kd->qd", d_scores, k)

        zero = jnp.zeros_like(k.T, jnp.float32)
        # A padded query has no gradient coming in, so it adds nothing.
        blocks = tuple(_blocks(x) for x in (q, logsumexp, d_out))
        (d_k, d_v), d_q = jax.lax.scan(one_block, (zero, zero), blocks)
        return _joined(d_q, length).astype(q.dtype), d_k.T.astype(k.dtype), d_v.T.astype(v.dtype)

    heads = tuple(_heads(x) for x in (q, k, v))
    d_q, d_k, d_v = jax.lax.map(one_head, (*heads, logsumexp, _heads(d_out)))
    return d_q.reshape(q.shape), d_k.reshape(k.shape), d_v.reshape(v.shape)


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _heads(x: jax.Array) -> jax.Array:
    """[B, H, ...] -> [B * H, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _blocks(x: jax.Array) -> jax.Array:
    """[T, ...] -> [blocks, size, ...], equal blocks of at most `_BLOCK`, zeros at the end."""
    number = -(-x.shape[0] // _BLOCK)
    size = -(-x.shape[0] // number)
    padded = jnp.pad(x, [(0, number * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(number, size, *x.shape[1:])


def _joined(blocks: jax.Array, length: int) -> jax.Array:
    """[blocks, size, ...] -> [length, ...]."""
    return blocks.reshape(-1, *blocks.shape[2:])[:length]
