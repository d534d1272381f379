"""The key queues against two Python deques."""

from collections import deque

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sapl_jax.models.hecl import empty_queues, enqueue

LENGTH, TAPS, DIM = 4, 2, 1

entries = st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=7, max_size=7)


@settings(deadline=None, max_examples=40)
@given(st.lists(entries, min_size=1, max_size=5))
def test_queues_hold_what_fifo_queues_hold(batches):
    queues = empty_queues(TAPS, LENGTH, DIM)
    expected = [deque(maxlen=LENGTH), deque(maxlen=LENGTH)]
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
        queues = enqueue(queues, keys, valids, labels)
    for c in range(2):
        fill = int(queues.fill[c])
        assert fill == len(expected[c])
        stored = np.asarray(queues.keys)[:, c][:, np.asarray(queues.filled)[c], 0]
        # The ring's order is from the head on once it is full.
        start = int(queues.head[c]) if fill == LENGTH else 0
        order = np.roll(np.arange(fill), -start)
        for tap, factor in enumerate((1.0, 100.0)):
            np.testing.assert_allclose(stored[tap][order], np.asarray(expected[c]) * factor)


def test_unfilled_slots_stay_zero():
    queues = enqueue(
        empty_queues(1, 3, 2), jnp.ones((1, 2, 2)), jnp.array([True, False]), jnp.array([1, 1])
    )
    assert np.asarray(queues.fill).tolist() == [0, 1]
    assert np.asarray(queues.keys)[0, 1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert not np.asarray(queues.keys)[0, 0].any()
