"""Multi-head attention, and which implementation of it runs on which platform."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

# Names of what attention keeps for its backward pass, for checkpoint policies; on GPUs, cuDNN's.
LOGSUMEXP = "attention_logsumexp"
FUSED = "fused_attention"

# Up to this many scores per head the plain einsum is fastest everywhere and its memory is small.
_DIRECT_SCORES = 256 * 256
# Queries per block on CPUs and TPUs, at most: larger blocks of scores fall out of the cache.
_BLOCK = 704
# From so many patches for each one that is seen, neighbours are gathered; below, the others masked.
_GATHERED = 16

Arrays = tuple[Array, ...]
_LOG = logging.getLogger(__name__)
product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
_plain = ContextVar("plain attention", default=False)


def attention(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """Softmax attention of already projected queries, keys and values.

    What runs is chosen where the program is lowered, by the platform it is lowered for, so a
    program that is compiled or exported here for other hardware has that hardware's attention.

    Args:
        q, k, v: [B, T, H, d], one floating dtype.
        causal: whether position t sees positions <= t only.

    Returns:
        [B, T, H, d] in the dtype of `q`. The softmax is computed in float32. Scale: d ** -0.5.
    """
    if q.shape[1] ** 2 <= _DIRECT_SCORES or _plain.get():
        return _einsum(causal, q, k, v)
    return _long(causal, q, k, v)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Traces the einsum alone, for converters that do not know a choice of platforms."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def neighbour_attention(
    q: Array, k: Array, v: Array, *, grid: tuple[int, int], reach: int
) -> Array:
    """`attention` in which a patch sees only the patches around it; the class token sees all.

    A patch attends to patches at most `reach` rows and columns away, itself included, and not to
    the class token, which would tell it of all others. After n blocks its feature depends on what
    lies within n * reach patches, and on nothing else. Linear in T where T is large.

    Args:
        q, k, v: [B, 1 + rows * columns, H, d], the class token first, then patches row by row.
        grid: rows and columns.
        reach: in patches, 0 or more.
    """
    if grid[0] * grid[1] >= _GATHERED * (2 * reach + 1) ** 2:
        return _gathered(q, k, v, grid, reach)
    away = [np.abs(np.subtract.outer(x, x)) for x in np.indices(grid).reshape(2, -1)]
    seen = np.pad(np.maximum(*away) <= reach, ((1, 0), (1, 0)))
    seen[0] = True
    return _einsum(False, q, k, v, seen)


def _gathered(q: Array, k: Array, v: Array, grid: tuple[int, int], reach: int) -> Array:
    """`neighbour_attention` from the keys at each place of the window, one after the other."""
    rows, columns = grid
    first = _einsum(False, q[:, :1], k, v)
    shape = (q.shape[0], rows, columns, *q.shape[2:])
    patches, keys, values = (x[:, 1:].reshape(shape) for x in (q * q.shape[3] ** -0.5, k, v))
    margin = ((0, 0), (reach, reach), (reach, reach), (0, 0), (0, 0))
    keys, values = jnp.pad(keys, margin), jnp.pad(values, margin)
    exists = np.pad(np.ones(grid, bool), reach)
    window = range(2 * reach + 1)
    parts = [np.s_[y : y + rows, x : x + columns] for y in window for x in window]
    scores = jnp.stack([product("byxhd,byxhd->byxh", patches, keys[:, *part]) for part in parts])
    seen = np.stack([exists[part] for part in parts])[:, None, :, :, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=0)
    each = zip(weights, parts, strict=True)
    rest = sum(weight[..., None] * values[:, *part] for weight, part in each)
    return jnp.concatenate([first, rest.reshape(q[:, 1:].shape).astype(v.dtype)], axis=1)


class _Kind(NamedTuple):
    """One implementation of attention over [B, T, H, d]."""

    # (q, k, v) -> (out, logsumexp [B, H, T] float32, what cuDNN keeps), the last two zeros where
    # they are not needed.
    forward: Callable[..., tuple[Array, Array, Arrays]]
    # (q, k, v, logsumexp, what cuDNN keeps, d_out) -> (d_q, d_k, d_v)
    backward: Callable[..., Arrays]


# The choice is inside one custom derivative, since JAX would keep the residuals of all platforms.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _long(causal: bool, q: Array, k: Array, v: Array) -> Array:
    return _long_forward(causal, q, k, v)[0]


def _long_forward(causal: bool, q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    forward = {platform: kind.forward for platform, kind in _kinds(causal, q).items()}
    out, logsumexp, fused = jax.lax.platform_dependent(q, k, v, **forward)
    out, *fused = (checkpoint_name(x, FUSED) for x in (out, *fused))
    return out, (q, k, v, checkpoint_name(logsumexp, LOGSUMEXP), tuple(fused))


def _long_backward(causal: bool, kept: tuple, d_out: Array) -> Arrays:
    backward = {platform: kind.backward for platform, kind in _kinds(causal, kept[0]).items()}
    return jax.lax.platform_dependent(*kept, d_out, **backward)


_long.defvjp(_long_forward, _long_backward)


def _kinds(causal: bool, q: Array) -> dict[str, _Kind]:
    """The implementation of each platform for queries of this shape and dtype."""
    kinds: dict[str, _Kind] = {}
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fused: tuple[jax.ShapeDtypeStruct, ...] = ()
    if half and q.shape[3] % 8 == 0 and q.shape[3] <= 128 and cudnn_serves():
        # With a token appended, JAX would keep four arrays for the sake of that one.
        cudnn = functools.partial(_cudnn, causal)
        kinds["cuda"] = _recomputed(cudnn, ()) if q.shape[1] % 2 else _differentiated(cudnn)
        fused = jax.eval_shape(kinds["cuda"].forward, q, q, q)[2]
    kinds["default"] = _recomputed(functools.partial(_einsum, causal), fused)
    if not causal:
        blocked = functools.partial(_blocked_forward, fused)
        kinds["cpu"] = kinds["tpu"] = _Kind(blocked, _blocked_backward)
    return kinds


def _no_logsumexp(q: Array) -> Array:
    return jnp.zeros((q.shape[0], q.shape[2], q.shape[1]), jnp.float32)


def _recomputed(function: Callable[..., Array], fused: tuple[jax.ShapeDtypeStruct, ...]) -> _Kind:
    """The implementation whose backward pass computes all of `function` again."""
    return _Kind(
        lambda q, k, v: (function(q, k, v), _no_logsumexp(q), jax.tree.map(jnp.zeros_like, fused)),
        lambda q, k, v, logsumexp, fused, d_out: jax.vjp(function, q, k, v)[1](d_out),
    )


def _differentiated(function: Callable[..., Array]) -> _Kind:
    """The implementation whose backward pass is JAX's of `function`, with what that keeps."""

    def forward(q: Array, k: Array, v: Array) -> tuple:
        out, pull = jax.vjp(function, q, k, v)
        return out, _no_logsumexp(q), tuple(jax.tree.leaves(pull))

    def backward(q: Array, k: Array, v: Array, _: Array, fused: tuple, d_out: Array) -> Arrays:
        pull = jax.eval_shape(lambda *qkv: jax.vjp(function, *qkv)[1], q, k, v)
        return jax.tree.unflatten(jax.tree.structure(pull), fused)(d_out)

    return _Kind(forward, backward)


def _cudnn(causal: bool, q: Array, k: Array, v: Array) -> Array:
    """Fused attention of cuDNN, half precision: q, k, v [B, T, H, d] -> [B, T, H, d].

    JAX refuses to train with an odd T; then one token is appended, which nobody attends to.
    """
    length = q.shape[1]
    if length % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = jnp.full(q.shape[0], length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn",
        query_seq_lengths=lengths, key_value_seq_lengths=lengths,
    )  # fmt: skip
    return out[:, :length]


@functools.cache
def cudnn_serves() -> bool:
    """Whether attention for CUDA can be cuDNN's: asked once, on the GPU where one is here.

    Without an NVIDIA GPU it tells whether a program that uses cuDNN can be made here at all.
    """
    x = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    gradient = jax.grad(
        lambda q, k, v: jnp.sum(_cudnn(False, q, k, v).astype(jnp.float32)), argnums=(0, 1, 2)
    )
    try:
        if jax.default_backend() == "gpu":
            jax.jit(gradient).lower(x, x, x).compile()
        else:
            jax.eval_shape(gradient, x, x, x)
    except (RuntimeError, NotImplementedError) as error:
        _LOG.debug("no attention of cuDNN: %s", error)
        return False
    return True


def _scaled_heads(q: Array, k: Array, v: Array) -> Arrays:
    """[B, T, H, d] -> [B, H, T, d], q scaled."""
    return tuple(jnp.swapaxes(x, 1, 2) for x in (q * q.shape[3] ** -0.5, k, v))


def _einsum(
    causal: bool, q: Array, k: Array, v: Array, seen: np.ndarray | Array | None = None
) -> Array:
    """Attention by two matrix products: q, k, v [B, T, H, d] -> [B, T, H, d].

    seen: which keys [T] a query [T] sees, bool; None: all of them, or those before it.
    """
    q, k, v = _scaled_heads(q, k, v)
    scores = product("...qd,...kd->...qk", q, k)
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.swapaxes(jnp.einsum("...qk,...kd->...qd", weights, v), 1, 2)


def _blocked_forward(
    fused: tuple[jax.ShapeDtypeStruct, ...], q: Array, k: Array, v: Array
) -> tuple[Array, Array, Arrays]:
    """`_einsum`, not causal, for CPUs and TPUs.

    One head and one block of queries at a time, so that the scores stay in the cache, and of the
    softmax only its logsumexp is kept for the backward pass (as in FlashAttention,
    arXiv 2205.14135; here every block sees all keys, so nothing is rescaled).
    """
    q, k, v = _scaled_heads(q, k, v)

    def one_head(qkv: Arrays) -> tuple[Array, Array]:
        q, k, v = qkv

        def one_block(q: Array) -> tuple[Array, Array]:
            scores = product("qd,kd->qk", q, k)
            highest = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - highest)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            # Divided after the product: T * d divisions instead of T * T.
            out = product("qk,kd->qd", weights.astype(v.dtype), v) / total
            return out.astype(v.dtype), (highest + jnp.log(total))[:, 0]

        out, logsumexp = jax.lax.map(one_block, _blocks(q))
        return _merged(out)[: len(q)], _merged(logsumexp)[: len(q)]

    out, logsumexp = jax.lax.map(one_head, tuple(_merged(x) for x in (q, k, v)))
    out = jnp.swapaxes(out.reshape(q.shape), 1, 2)
    return out, logsumexp.reshape(q.shape[:3]), jax.tree.map(jnp.zeros_like, fused)


def _blocked_backward(
    q: Array, k: Array, v: Array, logsumexp: Array, _: tuple, d_out: Array
) -> Arrays:
    scale = q.shape[3] ** -0.5
    q, k, v = _scaled_heads(q, k, v)
    d_out = jnp.swapaxes(d_out, 1, 2)

    def one_head(head: Arrays) -> Arrays:
        q, k, v, logsumexp, d_out = head

        def one_block(sums: Arrays, block: Arrays) -> tuple[Arrays, Array]:
            d_k, d_v = sums
            q, logsumexp, d_out = block
            weights = jnp.exp(product("qd,kd->qk", q, k) - logsumexp[:, None])
            d_weights = product("qd,kd->qk", d_out, v)
            mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
            d_scores = (weights * (d_weights - mean)).astype(k.dtype)
            # [d, T], so that the large factor of these products is not transposed.
            d_k += product("dq,qk->dk", q.T, d_scores)
            d_v += product("dq,qk->dk", d_out.T, weights.astype(d_out.dtype))
            return (d_k, d_v), product("qk,kd->qd", d_scores, k)

        sums: Arrays = (jnp.zeros_like(k.T, jnp.float32),) * 2
        # A padded query has no gradient coming in, so it adds nothing.
        blocks = tuple(_blocks(x) for x in (q, logsumexp, d_out))
        (d_k, d_v), d_q = jax.lax.scan(one_block, sums, blocks)
        d_q = _merged(d_q)[: len(q)].astype(q.dtype)
        return d_q, d_k.T.astype(k.dtype), d_v.T.astype(v.dtype)

    heads = tuple(_merged(x) for x in (q, k, v, logsumexp, d_out))
    d_q, d_k, d_v = (jnp.swapaxes(x.reshape(q.shape), 1, 2) for x in jax.lax.map(one_head, heads))
    return d_q * scale, d_k, d_v


def _merged(x: Array) -> Array:
    """[A, B, ...] -> [A * B, ...], as of batch and heads or of blocks and their size."""
    return x.reshape(-1, *x.shape[2:])


def _blocks(x: Array) -> Array:
    """[T, ...] -> [blocks, size, ...], equal blocks of at most `_BLOCK`, zeros at the end."""
    number = -(-x.shape[0] // _BLOCK)
    size = -(-x.shape[0] // number)
    padded = jnp.pad(x, [(0, number * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(number, size, *x.shape[1:])
