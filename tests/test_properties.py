"""What must hold for any input, by hypothesis: edges, queues, batches, flips, metrics."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_pipelines.preprocess import Geometry, patch_edge_map, preprocess, resize
from data_pipelines.soft_edges import soft_edge_map, soft_edges_from
from sapl_jax.metrics import roc_auc
from sapl_jax.models.hecl import empty_queues
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.state import merge_model, split_model
from tests.models.test_queues import enqueued, entries

ANY = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW = settings(ANY, max_examples=12)
sides = st.integers(1, 40)
edge_masks = arrays.arrays(bool, st.tuples(sides, sides))
pictures = arrays.arrays(np.uint8, st.tuples(sides, sides, st.just(3)))


@ANY
@given(edge_masks)
def test_soft_edges_are_one_on_edges_and_fall_with_the_distance(edges):
    found = soft_edges_from(edges)
    assert found.dtype == np.float32 and found.shape == edges.shape
    assert np.all((found >= 0) & (found <= 1))
    if not edges.any():
        assert not found.any()
        return
    np.testing.assert_array_equal(found[edges], 1.0)
    rows, columns = np.indices(edges.shape)
    at = np.argwhere(edges)
    distance = np.sqrt(
        ((np.stack([rows, columns], -1)[..., None, :] - at) ** 2).sum(-1).min(-1)
    ).ravel()
    order = np.argsort(distance, kind="stable")
    falls = np.diff(found.ravel()[order])
    assert np.all(falls <= 1e-6)


@ANY
@given(edge_masks)
def test_soft_edges_of_a_flipped_picture_are_the_flipped_soft_edges(edges):
    for axis in (0, 1):
        flipped = soft_edges_from(np.flip(edges, axis))
        np.testing.assert_allclose(flipped, np.flip(soft_edges_from(edges), axis), atol=1e-6)


@ANY
@given(pictures, st.integers(1, 60), st.integers(1, 16))
def test_any_picture_fits_its_canvas_and_has_no_edges_outside(picture, size, patch):
    geometry = Geometry(size, patch)
    found = preprocess(picture, geometry)
    assert found.image.shape == (geometry.canvas, geometry.canvas, 3)
    assert max(found.resized) == size
    assert np.all((found.edge_map >= 0) & (found.edge_map <= 1))
    assert not found.edge_map[~found.valid].any()
    full = soft_edge_map(resize(picture, geometry))
    assert np.all((full >= 0) & (full <= 1))
    np.testing.assert_array_equal(
        found.edge_map, patch_edge_map(resize(picture, geometry), geometry)
    )


@settings(ANY, max_examples=25)
@given(st.integers(1, 6), st.lists(entries, min_size=1, max_size=4))
def test_queues_of_any_length_keep_the_newest_of_any_batches(length, batches):
    queues = empty_queues(1, length, 1)
    expected = [deque(maxlen=length), deque(maxlen=length)]
    serial = 0
    for batch in batches:
        values = np.arange(serial + 1, serial + 1 + len(batch), dtype=np.float32)
        serial += len(batch)
        for value, (label, valid) in zip(values, batch, strict=True):
            if valid:
                expected[label].append(value)
        labels = jnp.asarray([label for label, _ in batch], jnp.int32)
        valids = jnp.asarray([valid for _, valid in batch], bool)
        queues = enqueued(queues, jnp.asarray(values).reshape(1, -1, 1), valids, labels)
    for c in range(2):
        stored = np.asarray(queues.keys)[0, c][np.asarray(queues.filled)[c], 0]
        assert len(stored) == int(queues.fill[c]) <= length
        assert sorted(stored) == sorted(expected[c])  # The oldest are the ones that left.


@pytest.fixture(scope="module")
def score():
    """Scores and similarities of a batch of eight by a model whose parts all take part."""
    from tests.tiny import tiny_configuration

    params, frozen = split_model(build_sapl(tiny_configuration(), jnp.float32))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(structure, moved)

    @jax.jit
    def score(image, edge_map, valid):
        outputs = merge_model(params, frozen)(image, edge_map, valid)
        return outputs.image_logits, jnp.moveaxis(outputs.similarity, 1, 0)

    return score


@FEW
@given(st.permutations(range(8)), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_neighbours_and_place_in_the_batch_never_change_a_picture_s_result(
    score, order, count, seed
):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)
    edge_map = rng.random((8, 4, 4)).astype(np.float32)
    valid = rng.random((8, 4, 4)) < 0.8
    valid[:, 0, 0] = True
    batch = [image, edge_map * valid, valid]
    # A batch of `count` pictures in another order, filled up with copies of its last one.
    chosen = (order[:count] + [order[count - 1]] * 8)[:8]
    found = score(*(part[chosen] for part in batch))
    for ours, alone in zip(found, score(*batch), strict=True):
        np.testing.assert_allclose(ours, np.asarray(alone)[chosen], rtol=2e-4, atol=2e-4)


@ANY
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1), st.randoms())
def test_i_auc_does_not_depend_on_the_order_of_the_pictures(rows, random):
    def auc(rows):
        labels, scores = np.array(rows).T
        return roc_auc(labels, scores / 5)

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert auc(rows) == auc(shuffled)
