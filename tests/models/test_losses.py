"""The contrast of HECL against plain NumPy, and the background term."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.models.hecl import Anchors, Queues
from sapl_jax.models.losses import background_loss, classification_loss, contrast, sapl_loss

TAU = 0.1


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def anchors():
    """Three pictures: an authentic one, one that gives both kinds, one with too few patches."""
    rng = np.random.default_rng(0)
    valid = np.ones((3, 2, 4), bool)
    valid[0, 1] = False
    valid[2, :, 2:] = False
    return Anchors(jnp.asarray(unit(rng, 2, 3, 2, 4, 5)), jnp.asarray(valid))


@pytest.fixture
def queues():
    rng = np.random.default_rng(1)
    keys = unit(rng, 2, 2, 6, 5)
    keys[:, 1, 3:] = 0.0
    return Queues(jnp.asarray(keys), jnp.array([6, 3], jnp.int32), jnp.array([0, 3], jnp.int32))


def reference(anchors, queues):
    """Eq. (5) anchor by anchor."""
    sums, counts = np.zeros((2, 2)), np.zeros(2)
    features = np.asarray(anchors.features, np.float64)
    keys, fill = np.asarray(queues.keys, np.float64), np.asarray(queues.fill)
    for b, c, k in zip(*np.nonzero(np.asarray(anchors.valid)), strict=True):
        if not fill[c]:
            continue
        counts[c] += 1
        for tap in range(2):
            held = [keys[tap, kind, : fill[kind]] for kind in (c, 1 - c)]
            own, other = (x @ features[tap, b, c, k] / TAU for x in held)
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
    other = anchors._replace(features=anchors.features.at[:, 2, :, 2:].set(0.5))
    np.testing.assert_array_equal(
        contrast(anchors, queues, TAU)[0], contrast(other, queues, TAU)[0]
    )


def test_keys_carry_no_gradient(anchors, queues):
    def loss(keys):
        return jnp.sum(contrast(anchors, queues._replace(keys=keys), TAU)[0])

    assert not np.any(jax.grad(loss)(queues.keys))


def test_contrast_gradients_agree_with_finite_differences(anchors, queues):
    loss = lambda f: jnp.sum(  # noqa: E731
        contrast(anchors._replace(features=f), queues, TAU)[0]
    )
    direction = jnp.asarray(
        np.random.default_rng(2).normal(size=anchors.features.shape), jnp.float32
    )
    step = 1e-3
    numeric = (
        loss(anchors.features + step * direction) - loss(anchors.features - step * direction)
    ) / (2 * step)
    analytic = jnp.sum(jax.grad(loss)(anchors.features) * direction)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-2)


def test_background_loss_asks_the_least_tampered_patches_to_be_authentic() -> None:
    rng = np.random.default_rng(3)
    similarity = rng.uniform(-1, 1, (2, 3, 8, 2)).astype(np.float32)
    valid = np.ones((3, 8), bool)
    valid[1, 4:] = False
    valid[2] = False
    margin = 10 * (similarity[..., 1] - similarity[..., 0]).mean(0)
    expected = 0.0
    for b, count in enumerate((6, 3)):  # Three quarters of 8 and of 4 patches.
        expected += np.log1p(np.exp(np.sort(margin[b][valid[b]])[:count])).mean() / 3

    def loss(similarity):
        return background_loss(similarity, 10.0, valid, 0.75, np.array([True, True, True]))

    np.testing.assert_allclose(loss(similarity), expected, rtol=1e-5)
    gradient = np.asarray(jax.grad(loss)(similarity))
    assert np.isfinite(gradient).all() and not gradient[:, 2].any()
    top = margin[0].argmax()
    assert not gradient[:, 0, top].any() and gradient[:, 0, np.arange(8) != top].any()


def test_background_of_authentic_pictures_alone_leaves_tampered_ones_out() -> None:
    rng = np.random.default_rng(4)
    similarity = jnp.asarray(rng.uniform(-1, 1, (2, 3, 8, 2)), jnp.float32)
    valid, counted = np.ones((3, 8), bool), np.array([True, False, True])
    gradient = jax.grad(lambda s: background_loss(s, 10.0, valid, 1.0, counted))(similarity)
    touched = np.any(np.asarray(gradient) != 0, axis=(0, 3))
    assert touched[counted].all() and not touched[~counted].any()


def test_classification_sums_the_sources_of_a_verdict() -> None:
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(2, 4, 2)), jnp.float32)
    label = jnp.array([0, 1, 1, 0])
    both = classification_loss(logits, label, 2.0)
    apart = [classification_loss(logits[i : i + 1], label, 2.0) for i in range(2)]
    np.testing.assert_allclose(both, sum(apart), rtol=1e-6)
    by_hand = -np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(4), label]
    np.testing.assert_allclose(apart[0], np.mean(by_hand * np.array([1, 2, 2, 1])), rtol=1e-6)


def test_accuracy_is_the_share_of_right_verdicts(tiny_config) -> None:
    logits = jnp.array([[2.0, 1.0], [1.0, 2.0], [3.0, 0.0]])
    outputs = SimpleNamespace(image_logits=logits, logits=logits[None])
    batch = {"label": jnp.array([0, 1, 1]), "valid": jnp.ones((3, 1, 1), bool)}
    model = SimpleNamespace(options=SimpleNamespace(hecl=SimpleNamespace(enabled=False)))
    _, (parts, _) = sapl_loss(model, outputs, batch, None, tiny_config.train, 0.0)
    assert parts["accuracy"] == pytest.approx(2 / 3)
