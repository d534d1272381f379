"""ECPL's edge tokens against the attention written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sapl_jax.models.ecpl import EdgeTokens

TAPS, BATCH, PATCHES, VISION, TEXT, HEADS = 3, 2, 5, 6, 8, 2


@pytest.fixture
def module():
    """Edge tokens with every parameter random, biases and the output projection included."""
    edge_tokens = EdgeTokens(TAPS, VISION, TEXT, HEADS, nnx.Rngs(0))
    rng = np.random.default_rng(1)
    state = nnx.state(edge_tokens)
    filled = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), state)
    nnx.update(edge_tokens, filled)
    return edge_tokens


@pytest.fixture
def inputs():
    rng = np.random.default_rng(2)
    patches = rng.normal(size=(TAPS, BATCH, PATCHES, VISION)).astype(np.float32)
    cls = rng.normal(size=(BATCH, VISION)).astype(np.float32)
    edge_map = rng.random((BATCH, PATCHES)).astype(np.float32)
    valid = np.array([[True] * 5, [True, True, True, False, False]])
    return patches, cls, edge_map, valid


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_at_cls(m, patches, cls, edge_map, valid):
    """MHSA over [z_0; Z_l] in full, queries of all positions included, then the CLS row."""
    p = {
        name: np.asarray(value[...], np.float64)
        for name, value in vars(m).items()
        if isinstance(value, nnx.Variable)
    }
    tokens = np.zeros((BATCH, TAPS, TEXT))
    for tap in range(TAPS):
        for b in range(BATCH):
            z0 = cls[b] @ p["cls_kernel"] + p["cls_bias"]
            z = patches[tap, b] @ p["patch_kernel"][tap] + p["patch_bias"][tap]
            sequence = np.concatenate([z0[None], z * edge_map[b][:, None]])
            keep = np.concatenate([[True], valid[b]])
            q = sequence @ p["query_kernel"][tap] + p["query_bias"][tap]
            k = sequence @ p["key_kernel"][tap]
            v = sequence @ p["value_kernel"][tap] + p["value_bias"][tap]
            heads = []
            for h in range(HEADS):
                part = slice(h * TEXT // HEADS, (h + 1) * TEXT // HEADS)
                scores = q[:, part] @ k[:, part].T / np.sqrt(TEXT // HEADS)
                scores[:, ~keep] = -np.inf
                heads.append(softmax(scores) @ v[:, part])
            out = np.concatenate(heads, axis=-1) @ p["out_kernel"][tap] + p["out_bias"][tap]
            tokens[b, tap] = out[0] / np.sqrt(TEXT + np.sum(out[0] ** 2))
    return tokens


def test_tokens_equal_the_full_attention_at_cls(module, inputs):
    np.testing.assert_allclose(
        module(*inputs), attention_at_cls(module, *inputs), rtol=1e-4, atol=1e-4
    )


def test_tokens_never_outgrow_the_length_of_one(module, inputs):
    nnx.update(module, jax.tree.map(lambda x: 100 * x, nnx.state(module)))
    lengths = np.linalg.norm(module(*inputs), axis=-1)
    assert (lengths <= 1 + 1e-5).all() and lengths.max() > 0.99


def test_patches_outside_the_picture_change_nothing(module, inputs):
    patches, cls, edge_map, valid = inputs
    other = patches.copy()
    other[:, 1, 3:] = 99.0
    np.testing.assert_array_equal(
        module(patches, cls, edge_map, valid), module(other, cls, edge_map, valid)
    )


def test_a_picture_without_valid_patches_gives_finite_tokens(module, inputs):
    patches, cls, edge_map, _ = inputs
    none = np.zeros((BATCH, PATCHES), bool)
    loss = lambda x: jnp.sum(module(x, cls, edge_map, none))  # noqa: E731
    assert np.isfinite(module(patches, cls, edge_map, none)).all()
    assert np.isfinite(jax.grad(loss)(jnp.asarray(patches))).all()


def test_tokens_are_exactly_zero_at_the_start(inputs):
    assert not np.any(EdgeTokens(TAPS, VISION, TEXT, HEADS, nnx.Rngs(0))(*inputs))


def test_gradients_agree_with_finite_differences(module, inputs):
    patches, cls, edge_map, valid = (jnp.asarray(x) for x in inputs)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(BATCH, TAPS, TEXT)), jnp.float32)
    loss = lambda x: jnp.sum(module(x, cls, edge_map, valid) * weights)  # noqa: E731
    direction = jnp.asarray(np.random.default_rng(4).normal(size=patches.shape), jnp.float32)
    step = 1e-2
    numeric = (loss(patches + step * direction) - loss(patches - step * direction)) / (2 * step)
    analytic = jnp.sum(jax.grad(loss)(patches) * direction)
    np.testing.assert_allclose(analytic, numeric, rtol=2e-2)
