"""The tf.data input: batches of prepared pictures, a pure function of (seed, step)."""

import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.prepared import Prepared, open_prepared
from data_pipelines.preprocess import PADDING, Geometry
from data_pipelines.quiet_tensorflow import tf
from sapl_jax.errors import UserError

Batch = dict[str, np.ndarray]


def train_batches(
    prepared: Prepared | str | Path,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
    shuffle: bool = True,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    threads: int | None = None,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on.

    batch = {"image": uint8 [B, C, C, 3], "edge_map": float32 [B, g, g], "valid": bool [B, g, g],
    "label": int32 [B]}, B = `batch_size` examples of this process. The global batch of a step has
    B * process_count examples at the positions n = step * B * process_count + ...; process p
    holds the p-th slice of it. Position n is example n % N of a permutation of epoch n // N, so
    example and flips depend on (seed, n) only: any start step is exact and immediate, and the
    order of examples is the same for every number of processes.

    Flips, each with probability 1/2, turn the whole canvas: picture, edge map and valid patches
    alike. A flipped picture that is smaller than the canvas then touches the other border, and
    every patch keeps exactly its pixels and its edge value.

    threads: limit of TensorFlow's threads, None for one per core. Raises UserError for an empty
    split or records that cannot be read.
    """
    prepared = _open(prepared)
    total = _examples_in(prepared, split)
    flips = (vertical_flip, horizontal_flip)

    def positions() -> Iterator[int]:
        step = start_step
        while True:
            first = (step * process_count + process_index) * batch_size
            yield from range(first, first + batch_size)
            step += 1

    def plan() -> Iterator[tuple[int, np.ndarray, float]]:
        for n in positions():
            order, coins = epoch_plan(total, seed, n // total, shuffle)
            yield int(order[n % total]), coins[n % total] & flips, 1.0

    return _batches(prepared, split, plan, batch_size, threads, prefetch, with_weight=False)


def eval_batches(
    prepared: Prepared | str | Path,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "validation",
    threads: int | None = None,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Every example of a split once, in the order of the records, never flipped.

    Batches are those of `train_batches` with "weight" float32 [B]: 1 for an example, 0 for the
    padding (copies of the last example) that fills the last global batch. Every process yields
    the same number of batches. Raises UserError like `train_batches`.
    """
    prepared = _open(prepared)
    total = _examples_in(prepared, split)
    steps = -(-total // (batch_size * process_count))

    def plan() -> Iterator[tuple[int, np.ndarray, float]]:
        for step in range(steps):
            first = (step * process_count + process_index) * batch_size
            for n in range(first, first + batch_size):
                yield min(n, total - 1), np.zeros(2, bool), float(n < total)

    return _batches(prepared, split, plan, batch_size, threads, prefetch, with_weight=True)


@lru_cache(maxsize=4)
def epoch_plan(total: int, seed: int, epoch: int, shuffle: bool) -> tuple[np.ndarray, np.ndarray]:
    """Order and coin flips of one epoch: int64 [total] and bool [total, 2] (vertical, horizontal).

    Sorts raw Philox words, whose stream NumPy never changes, instead of using its permutation.
    """
    words = np.random.Philox(key=[seed % 2**64, epoch]).random_raw(2 * total)
    order = np.argsort(words[:total], kind="stable") if shuffle else np.arange(total)
    coins = words[total:, None] >> np.array([63, 62], np.uint64) & np.uint64(1)
    return order, coins.astype(bool)


def _open(prepared: Prepared | str | Path) -> Prepared:
    return prepared if isinstance(prepared, Prepared) else open_prepared(prepared)


def _examples_in(prepared: Prepared, split: str) -> int:
    total = prepared.num_examples(split)
    if not total:
        raise UserError(f"{prepared.dir} has no pictures in its {split!r} split")
    return total


def _batches(
    prepared: Prepared,
    split: str,
    plan: Callable[[], Iterator[tuple[int, np.ndarray, float]]],
    batch_size: int,
    threads: int | None,
    prefetch: int,
    with_weight: bool,
) -> Iterator[Batch]:
    """Reads, decodes and batches the examples that `plan` names; checks arguments at once."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} per process: expected at least 1")
    builder = tfds.builder_from_directory(str(prepared.dir))
    raw = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

    def records() -> Iterator[tuple[bytes, np.ndarray, float]]:
        for index, flips, weight in plan():
            yield raw[index], flips, weight

    dataset = tf.data.Dataset.from_generator(
        records,
        output_signature=(
            tf.TensorSpec((), tf.string),
            tf.TensorSpec((2,), tf.bool),
            tf.TensorSpec((), tf.float32),
        ),
    )
    decode = partial(_decode, builder.info.features, prepared.geometry, with_weight)
    dataset = dataset.map(decode, num_parallel_calls=threads or tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(prefetch)
    options = tf.data.Options()
    options.deterministic = True
    if threads:
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = 1
    return _NumpyBatches(dataset.with_options(options), prepared)


class _NumpyBatches(Iterator[Batch]):
    """Iterates over a dataset; its reader threads end with it, or at the latest at exit."""

    def __init__(self, dataset: tf.data.Dataset, prepared: Prepared) -> None:
        self._dir = prepared.dir
        self._source = [dataset.as_numpy_iterator()]
        # Left to the interpreter's end, TensorFlow would call into Python when it is gone.
        weakref.finalize(self, self._source.clear)

    def __next__(self) -> Batch:
        try:
            return next(self._source[0])
        except tf.errors.OpError as error:
            raise UserError(
                f"the prepared records in {self._dir} cannot be read ({error.message}); delete "
                "that folder and prepare the data again"
            ) from error


def _decode(
    features: tfds.features.FeaturesDict,
    geometry: Geometry,
    with_weight: bool,
    record: tf.Tensor,
    flips: tf.Tensor,
    weight: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """One record to one example on the canvas, flipped as told (vertical, horizontal)."""
    example = features.deserialize_example(record)
    picture = example["image"]
    height, width = tf.shape(picture)[0], tf.shape(picture)[1]
    # Padding is not zero, and tf.pad fills with one value for all channels.
    shifted = picture - tf.constant(PADDING, tf.uint8)
    space = [[0, geometry.canvas - height], [0, geometry.canvas - width], [0, 0]]
    canvas = tf.pad(shifted, space) + tf.constant(PADDING, tf.uint8)
    canvas.set_shape((geometry.canvas, geometry.canvas, 3))
    out = {
        "image": canvas,
        "edge_map": example["edge_map"],
        "valid": _valid_patches(height, width, geometry),
    }
    for axis in (0, 1):
        out = {
            key: tf.cond(flips[axis], partial(tf.reverse, value, [axis]), lambda value=value: value)
            for key, value in out.items()
        }
    out["label"] = tf.cast(example["label"], tf.int32)
    if with_weight:
        out["weight"] = weight
    return out


def _valid_patches(height: tf.Tensor, width: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """`preprocess.valid_patches` in the graph."""
    starts = tf.range(geometry.grid) * geometry.patch
    rows = tf.clip_by_value(height - starts, 0, geometry.patch)
    columns = tf.clip_by_value(width - starts, 0, geometry.patch)
    return 2 * rows[:, None] * columns[None, :] >= geometry.patch**2
