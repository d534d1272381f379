"""Attention beside a plain NumPy version, and what is sent to cuDNN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.clip import attention


def arrays(length, heads=2, dim=8):
    rng = np.random.default_rng(length)
    return [rng.standard_normal((2, length, heads, dim)).astype(np.float32) for _ in range(4)]


def plain(q, k, v, causal):
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


def with_gradients(function, q, k, v, d_out):
    out, pull = jax.vjp(function, q, k, v)
    return out, *pull(d_out)


@pytest.mark.parametrize("length", [19, 257, 300])
@pytest.mark.parametrize("causal", [False, True])
def test_is_softmax_attention(length, causal):
    q, k, v, d_out = arrays(length)
    function = functools.partial(attention.attention, causal=causal)
    found = with_gradients(function, q, k, v, d_out)
    np.testing.assert_allclose(found[0], plain(q, k, v, causal), atol=2e-6)
    with attention.plain_attention():
        expected = with_gradients(function, q, k, v, d_out)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("gathered", [0, 1000])
@pytest.mark.parametrize("reach", [0, 1, 4, 9])
def test_neighbour_attention_is_attention_to_the_patches_around(monkeypatch, reach, gathered):
    monkeypatch.setattr(attention, "_GATHERED", gathered)
    rows, columns = 5, 4
    q, k, v, d_out = arrays(1 + rows * columns)
    y, x = np.divmod(np.arange(rows * columns), columns)
    seen = np.ones((1 + rows * columns,) * 2, bool)
    seen[1:, 0] = False
    away = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x))
    seen[1:, 1:] = away <= reach

    def expected(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    function = functools.partial(attention.neighbour_attention, grid=(rows, columns), reach=reach)
    found, right = (
        jax.jit(functools.partial(with_gradients, f))(q, k, v, d_out) for f in (function, expected)
    )
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


@pytest.mark.parametrize("length", [19, 257])
@pytest.mark.parametrize("causal", [False, True])
def test_the_token_appended_for_cudnn_changes_nothing(monkeypatch, length, causal):
    lengths = []

    def by_xla(q, *args, implementation, **options):
        assert implementation == "cudnn"
        lengths.append(q.shape[1])
        return original(q, *args, implementation="xla", **options)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    q, k, v, d_out = (jnp.asarray(x) for x in arrays(length))
    found = with_gradients(functools.partial(attention._cudnn, causal), q, k, v, d_out)
    expected = with_gradients(functools.partial(attention._einsum, causal), q, k, v, d_out)
    assert lengths == [length + 1]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=2e-6)
