"""HECL's selection and contrast against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sapl_jax.models.hecl import Anchors, ProjectionHeads, contrast, make_anchors, select_patches
from sapl_jax.models.queues import Queues

TAU = 0.1


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def anchors():
    rng = np.random.default_rng(0)
    return Anchors(
        features=jnp.asarray(unit(rng, 2, 3, 4, 5)),
        valid=jnp.asarray([[True] * 4, [True, True, False, False], [True] * 4]),
        label=jnp.asarray([[0] * 4, [1] * 4, [1] * 4]),
        patches=jnp.zeros((2, 3, 4), jnp.int32),
    )


@pytest.fixture
def queues():
    rng = np.random.default_rng(1)
    keys = unit(rng, 2, 2, 6, 5)
    return Queues(jnp.asarray(keys), jnp.array([6, 3], jnp.int32), jnp.array([0, 3], jnp.int32))


def reference(anchors, queues):
    """Eq. (5) anchor by anchor."""
    sums, counts = np.zeros((2, 2)), np.zeros(2)
    features, label = np.asarray(anchors.features, np.float64), np.asarray(anchors.label)
    keys, fill = np.asarray(queues.keys, np.float64), np.asarray(queues.fill)
    for b, k in zip(*np.nonzero(np.asarray(anchors.valid)), strict=True):
        c = label[b, k]
        if not fill[c]:
            continue
        counts[c] += 1
        for tap in range(2):
            own = keys[tap, c, : fill[c]] @ features[tap, b, k] / TAU
            other = keys[tap, 1 - c, : fill[1 - c]] @ features[tap, b, k] / TAU
            positive = np.exp(own.max())
            sums[tap, c] -= np.log(positive / (positive + np.exp(other).sum()))
    return sums, counts


def test_contrast_equals_the_equation_anchor_by_anchor(anchors, queues):
    sums, counts = contrast(anchors, queues, TAU)
    expected_sums, expected_counts = reference(anchors, queues)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize("fill", [(0, 0), (6, 0), (0, 3)])
def test_an_empty_queue_gives_exactly_zero_with_finite_gradients(anchors, queues, fill):
    queues = queues._replace(fill=jnp.array(fill, jnp.int32))

    def loss(features):
        return jnp.sum(contrast(anchors._replace(features=features), queues, TAU)[0])

    sums, _ = contrast(anchors, queues, TAU)
    grads = jax.grad(loss)(anchors.features)
    assert np.isfinite(grads).all()
    for c in range(2):
        if not fill[c] or not fill[1 - c]:
            assert np.asarray(sums)[:, c].tolist() == [0.0, 0.0]


def test_anchors_that_are_not_valid_do_not_count(anchors, queues):
    other = anchors._replace(features=anchors.features.at[:, 1, 2:].set(0.5))
    np.testing.assert_array_equal(
        contrast(anchors, queues, TAU)[0], contrast(other, queues, TAU)[0]
    )


def test_keys_carry_no_gradient(anchors, queues):
    grads = jax.grad(lambda k: jnp.sum(contrast(anchors, queues._replace(keys=k), TAU)[0]))(
        queues.keys
    )
    assert not np.any(grads)


def test_contrast_gradients_agree_with_finite_differences(anchors, queues):
    loss = lambda f: jnp.sum(contrast(anchors._replace(features=f), queues, TAU)[0])  # noqa: E731
    direction = jnp.asarray(
        np.random.default_rng(2).normal(size=anchors.features.shape), jnp.float32
    )
    step = 1e-3
    numeric = (
        loss(anchors.features + step * direction) - loss(anchors.features - step * direction)
    ) / (2 * step)
    analytic = jnp.sum(jax.grad(loss)(anchors.features) * direction)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-2)


def test_selection_ranks_by_similarity_to_the_own_class_times_edges():
    rng = np.random.default_rng(3)
    similarity = rng.random((2, 2, 6, 2)).astype(np.float32)
    edge_map = rng.random((2, 6)).astype(np.float32)
    valid = np.ones((2, 6), bool)
    valid[0, 4:] = False
    edge_map[1, :4] = 0.0  # Two usable patches are left in the second picture.
    label = np.array([0, 1])
    indices, usable = select_patches(
        jnp.asarray(similarity),
        jnp.asarray(edge_map),
        jnp.asarray(valid),
        jnp.asarray(label),
        top_k=3,
        use_edges=True,
    )
    for tap in range(2):
        weight = similarity[tap, 0, :4, 0] * edge_map[0, :4]
        assert np.asarray(indices)[tap, 0].tolist() == np.argsort(-weight)[:3].tolist()
        assert set(np.asarray(indices)[tap, 1][:2].tolist()) == {4, 5}
    assert np.asarray(usable).tolist() == [[True] * 3, [True, True, False]]


def test_without_edges_selection_is_by_similarity_alone():
    similarity = jnp.asarray([0.1, 0.9, 0.5]).reshape(1, 1, 3, 1) * jnp.ones((1, 1, 3, 2))
    indices, usable = select_patches(
        similarity,
        jnp.zeros((1, 3)),
        jnp.ones((1, 3), bool),
        jnp.zeros(1, jnp.int32),
        top_k=2,
        use_edges=False,
    )
    assert np.asarray(indices)[0, 0].tolist() == [1, 2]
    assert np.asarray(usable).all()


def test_anchors_are_unit_features_of_the_chosen_patches():
    heads = ProjectionHeads(2, 6, 4, nnx.Rngs(0))
    embeddings = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 7, 6)), jnp.float32)
    indices = jnp.asarray(np.random.default_rng(5).integers(0, 7, (2, 3, 2)))
    anchors = make_anchors(heads, embeddings, indices, jnp.ones((3, 2), bool), jnp.array([0, 1, 1]))
    np.testing.assert_allclose(jnp.linalg.norm(anchors.features, axis=-1), 1.0, rtol=1e-5)
    alone = heads(embeddings)[1, 2, indices[1, 2, 0]]
    np.testing.assert_allclose(anchors.features[1, 2, 0], alone, rtol=1e-5)
    assert np.asarray(anchors.label).tolist() == [[0, 0], [1, 1], [1, 1]]
