"""HECL's selection of patches: edges and class probability, whatever the sign of the cosines."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sapl_jax.models.hecl import GIVERS, ProjectionHeads, make_anchors, select_patches

SCALE = 100.0


def select(similarity, edge_map, valid=None, tampered=False, **options):
    valid = np.ones(np.shape(edge_map), bool) if valid is None else valid
    tampered = np.full(len(edge_map), tampered)
    arguments = (jnp.asarray(x) for x in (similarity, SCALE, edge_map, valid, tampered))
    hecl = SimpleNamespace(**{"top_k": 3, "use_edges": True} | options)
    return [np.asarray(x) for x in select_patches(*arguments, hecl)]


def test_selection_ranks_by_class_probability_times_edges():
    rng = np.random.default_rng(3)
    similarity = rng.normal(0, 0.02, (2, 2, 6, 2)).astype(np.float32)
    edge_map = rng.random((2, 6)).astype(np.float32)
    valid = np.ones((2, 6), bool)
    valid[0, 4:] = False
    edge_map[1, :4] = 0.0  # Two usable patches are left in the second picture.
    indices, usable = select(similarity, edge_map, valid)
    probability = np.exp(SCALE * similarity) / np.exp(SCALE * similarity).sum(-1, keepdims=True)
    for tap in range(2):
        for c in range(2):
            weight = probability[tap, 0, :4, c] * edge_map[0, :4]
            assert indices[tap, 0, c].tolist() == np.argsort(-weight)[:3].tolist()
            assert set(indices[tap, 1, c][:2].tolist()) == {4, 5}
    assert usable.tolist() == [[True] * 3, [True, True, False]]


def test_the_sign_of_the_cosines_does_not_matter():
    """What both classes' cosines have in common says nothing of the class, nor of the edges."""
    rng = np.random.default_rng(4)
    similarity = rng.normal(0, 0.02, (1, 4, 60, 2))
    edge_map = rng.random((4, 60))
    chosen = [select(similarity + shift, edge_map, top_k=8)[0] for shift in (-0.3, 0.0, 0.3)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    np.testing.assert_array_equal(chosen[2], chosen[1])


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize("spread", [0.0, 0.003, 0.02])
def test_selected_patches_have_more_edge_than_the_average(mean, spread):
    rng = np.random.default_rng(5)
    similarity = mean + rng.normal(0, spread, (2, 50, 144, 2))
    edge_map = rng.random((50, 144))
    indices, _ = select(similarity, edge_map, top_k=8)
    edges = np.take_along_axis(edge_map[None, :, None], indices, axis=-1)
    assert edges.mean(axis=(1, 3)).min() > edge_map.mean() + 0.05


def test_a_tampered_picture_s_authentic_patches_are_taken_by_probability_alone():
    rng = np.random.default_rng(6)
    similarity, edge_map = rng.normal(0, 0.003, (2, 9, 144, 2)), rng.random((9, 144))
    edge_map[:, :40] = 0.0  # They are no edges, whatever the class.
    of_tampered, usable = select(similarity, edge_map, tampered=True)
    of_authentic, _ = select(similarity, edge_map)
    np.testing.assert_array_equal(of_tampered[:, :, 1], of_authentic[:, :, 1])
    margin = similarity[..., 0] - similarity[..., 1]
    margin[..., :40] = -np.inf
    np.testing.assert_array_equal(of_tampered[:, :, 0], np.argsort(-margin, axis=-1)[..., :3])
    assert usable.all() and (of_tampered[:, :, 0] != of_authentic[:, :, 0]).any()


def test_small_probabilities_are_still_ranked():
    """At a scale of 100 a difference of 1.2 in the cosine is a probability below float32's."""
    similarity = np.stack([np.full((1, 1, 5), 0.6), np.full((1, 1, 5), -0.6)], axis=-1)
    edge_map = np.array([[0.1, 0.5, 0.3, 0.9, 0.2]])
    indices, _ = select(similarity, edge_map)
    assert indices[0, 0].tolist() == [[3, 1, 2], [3, 1, 2]]


def test_without_edges_selection_is_by_probability_alone():
    similarity = np.zeros((1, 1, 3, 2))
    similarity[0, 0, :, 1] = [0.1, 0.9, 0.5]
    indices, usable = select(similarity, np.zeros((1, 3)), top_k=2, use_edges=False)
    assert indices[0, 0].tolist() == [[0, 2], [1, 2]]
    assert usable.all()


def test_heads_are_a_network_of_two_layers_for_each_tap():
    heads, rng, layers = ProjectionHeads(2, 6, 4, nnx.Rngs(0)), np.random.default_rng(0), []
    for name in ("hidden_kernel", "hidden_bias", "out_kernel", "out_bias"):
        weight = getattr(heads, name)
        layers.append(rng.normal(size=weight.shape).astype(np.float32))
        weight[...] = jnp.asarray(layers[-1])
    x = rng.normal(size=(2, 3, 6)).astype(np.float32)
    hidden = np.maximum(x @ layers[0] + layers[1][:, None], 0)
    expected = hidden @ layers[2] + layers[3][:, None]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(heads(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [None, ProjectionHeads(2, 6, 4, nnx.Rngs(0))])
def test_anchors_are_unit_features_of_the_chosen_patches(heads):
    rng = np.random.default_rng(4)
    embeddings = jnp.asarray(rng.normal(size=(2, 3, 7, 6)), jnp.float32)
    indices = jnp.asarray(rng.integers(0, 7, (2, 3, 2, 2)))
    gives = jnp.asarray(GIVERS["label"])[0, jnp.array([0, 1, 1])]
    anchors = make_anchors(heads, embeddings, indices, jnp.ones((3, 2), bool), gives)
    np.testing.assert_allclose(jnp.linalg.norm(anchors.features, axis=-1), 1.0, rtol=1e-5)
    patch = embeddings[1, 2, indices[1, 2, 1, 0]]
    alone = (
        patch / jnp.linalg.norm(patch)
        if heads is None
        else heads(embeddings)[1, 2, indices[1, 2, 1, 0]]
    )
    np.testing.assert_allclose(anchors.features[1, 2, 1, 0], alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("givers", "called", "authentic", "manipulated"),
    [
        ("label", 0, (True, False), (False, True)),
        ("label", 1, (True, False), (False, True)),
        ("tampered_both", 0, (True, True), (False, True)),
        ("tampered_both", 1, (True, True), (False, True)),
        ("found_both", 0, (True, False), (False, False)),
        ("found_both", 1, (True, True), (False, True)),
    ],
)
def test_who_gives_which_edges(givers, called, authentic, manipulated):
    gives = jnp.asarray(GIVERS[givers])[called, jnp.array([0, 1])]
    usable = jnp.asarray([[True, True], [True, False]])
    anchors = make_anchors(
        None, jnp.ones((1, 2, 3, 4)), jnp.zeros((1, 2, 2, 2), jnp.int32), usable, gives
    )
    found = np.asarray(anchors.valid)
    assert tuple(found[:, 0, 0]) == authentic and tuple(found[:, 1, 0]) == manipulated
    assert not found[1, :, 1].any()
