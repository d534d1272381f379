"""The key queues against two Python deques, and over several replicas."""

import subprocess
import sys
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sapl_jax.devices import AXIS
from sapl_jax.models.hecl import Anchors, empty_queues, enqueue
from tests.training.run_in_memory import environment

TAPS, DIM = 2, 1

entries = st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=8, max_size=8)


def enqueued(queues, keys, valid, label, replicas=1):
    """Queues after keys [L, N, D] of classes `label` [N], equal numbers of them on each replica."""
    one_each = valid[:, None, None] & (label[:, None, None] == jnp.arange(2)[:, None])
    features = jnp.repeat(keys[:, :, None, None], 2, axis=2)
    number = len(label) // replicas
    return jax.vmap(
        lambda *new: enqueue(queues, Anchors(*new)), (1, 0), out_axes=None, axis_name=AXIS
    )(
        features.reshape(keys.shape[0], replicas, number, 2, 1, keys.shape[2]),
        one_each.reshape(replicas, number, 2, 1),
    )


# Queues of three slots are summed over the replicas, those of four filled with gathered keys.
@settings(deadline=None, max_examples=40)
@given(
    st.lists(entries, min_size=1, max_size=5), st.sampled_from((3, 4)), st.sampled_from((1, 2, 8))
)
def test_queues_hold_what_fifo_queues_hold(batches, length, replicas):
    queues = empty_queues(TAPS, length, DIM)
    expected = [deque(maxlen=length), deque(maxlen=length)]
    serial = 0
    for batch in batches:
        values = []
        for label, valid in batch:
            serial += 1
            values.append(float(serial))
            if valid:
                expected[label].append(float(serial))
        keys = jnp.asarray(values).reshape(1, -1, 1) * jnp.asarray([1.0, 100.0]).reshape(2, 1, 1)
        labels, valids = (jnp.asarray(column) for column in zip(*batch, strict=True))
        queues = enqueued(queues, keys, valids, labels, replicas)
    for c in range(2):
        fill = int(queues.fill[c])
        assert fill == len(expected[c])
        stored = np.asarray(queues.keys)[:, c][:, np.asarray(queues.filled)[c], 0]
        # The ring's order is from the head on once it is full.
        start = int(queues.head[c]) if fill == length else 0
        order = np.roll(np.arange(fill), -start)
        for tap, factor in enumerate((1.0, 100.0)):
            np.testing.assert_allclose(stored[tap][order], np.asarray(expected[c]) * factor)


def test_unfilled_slots_stay_zero():
    queues = enqueued(
        empty_queues(1, 3, 2), jnp.ones((1, 2, 2)), jnp.array([True, False]), jnp.array([1, 1])
    )
    assert np.asarray(queues.fill).tolist() == [0, 1]
    assert np.asarray(queues.keys)[0, 1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert not np.asarray(queues.keys)[0, 0].any()


EIGHT_AND_ONE = """
import jax
import numpy as np

from sapl_jax.devices import AXIS
from sapl_jax.models.hecl import Anchors, empty_queues, enqueue

rng = np.random.default_rng(0)
for length in (7, 40, 100):  # Summed, and gathered.
    many = alone = empty_queues(3, length, 5)
    one_step = jax.pmap(
        lambda queues, *new: enqueue(queues, Anchors(*new)),
        AXIS, in_axes=(None, 0, 0), out_axes=None,
    )
    for _ in range(9):
        features = rng.normal(size=(8, 3, 2, 2, 4, 5)).astype(np.float32)
        valid = rng.random((8, 2, 2, 4)) < rng.random()
        many = jax.device_get(one_step(many, features, valid))
        features = np.moveaxis(features, 0, 1).reshape(1, 3, 16, 2, 4, 5)
        alone = jax.device_get(one_step(alone, features, valid.reshape(1, 16, 2, 4)))
        assert [x.tobytes() for x in many] == [x.tobytes() for x in alone]
        assert many.fill.all()
print(jax.device_count())
"""


def test_eight_devices_fill_the_queues_as_one_does_to_the_last_bit():
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_AND_ONE], env=environment(8), capture_output=True, text=True
    )
    assert done.stdout == "8\n", done.stderr
