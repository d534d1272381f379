"""The input: batches of prepared pictures, a pure function of (seed, step), read in threads.

The records are those that the TensorFlow Datasets builder wrote; reading them needs no TensorFlow.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.images import resave
from data_pipelines.prepared import Prepared
from data_pipelines.preprocess import Geometry, pad, valid_patches
from data_pipelines.read_ahead import read_ahead
from sapl_jax.errors import UserError

Batch = dict[str, np.ndarray]
_AHEAD = 2 * 2**30  # bytes of pictures that wait; four batches may, of whatever size


class _Item(NamedTuple):
    """One example of a batch: its record's number, the canvas's axes to flip, and more."""

    number: int
    flips: tuple[int, ...] = ()
    jpeg: int = 0  # quality of one more JPEG save, 0 for none
    weight: float | None = None  # 0 for padding, None where batches have no weights


def train_batches(
    prepared: Prepared,
    start_step: int = 0,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    jpeg_share: float = 0.0,
    pairs: bool = False,
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on.

    batch = {"image": uint8 [B, C, C, 3], "edge_map": float32 [B, g, g], "valid": bool [B, g, g],
    "label": int32 [B]}, B = `batch_size` examples of this process. The global batch of a step has
    B * process_count examples at the positions n = step * B * process_count + ...; process p
    holds the p-th slice of it. Position n is example n % N of a permutation of epoch n // N, so any
    start step is exact and immediate, and the order is the same for every number of processes.

    Flips, each with probability 1/2, turn the whole canvas: picture, edge map and valid patches
    alike, so every patch keeps its pixels and its edge value. The share `jpeg_share` of the
    examples, of either class and others in each epoch, is saved once more as JPEG (4:2:0, quality
    60 to 98), so that formats do not tell classes. Edge maps stay as they are.

    pairs: takes `prepared.pairs` instead of single pictures, so an authentic picture and one made
    from it follow each other, turned and saved alike; an epoch has all pairs once.

    Raises UserError for no pairs, an odd batch for them, or records that cannot be read.
    """
    total = prepared.num_examples("train")
    if pairs:
        if not (total := len(prepared.pairs)):
            raise UserError(
                f"data.pairs: {prepared.dir} has no tampered picture with an authentic one of the "
                "same source. If an earlier version made that folder, delete it, so that it is "
                "prepared again; otherwise set data.pairs to False"
            )
        if batch_size % 2:
            raise UserError(f"batch size {batch_size} per process: data.pairs takes even ones")

    def plan() -> Iterator[_Item]:
        for n in _positions(count(start_step), batch_size, process_index, process_count):
            unit, second = divmod(n, 2) if pairs else (n, 0)
            epoch, at = divmod(unit, total)
            order, coins = epoch_plan(total, seed, epoch)
            quality = int(jpeg_qualities(total, seed, epoch, jpeg_share)[at])
            flips = np.flatnonzero(coins[at] & (vertical_flip, horizontal_flip))
            number = int(order[at])
            yield _Item(prepared.pairs[number][second] if pairs else number, tuple(flips), quality)

    return _batches(prepared, "train", plan(), batch_size)


def eval_batches(
    prepared: Prepared,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "validation",
) -> Iterator[Batch]:
    """Every example of a split once, in the order of the records, never flipped.

    Batches are those of `train_batches` with "weight" float32 [B]: 1 for an example, 0 for the
    padding (copies of the last example) that fills the last global batch. Every process yields
    the same number of batches; none where the split is empty. Raises UserError where the records
    cannot be read.
    """
    total = prepared.num_examples(split)
    steps = range(-(-total // (batch_size * process_count)))
    numbers = _positions(steps, batch_size, process_index, process_count)
    plan = (_Item(min(n, total - 1), weight=float(n < total)) for n in numbers)
    return _batches(prepared, split, plan, batch_size)


def _positions(steps: Iterable[int], batch_size: int, process: int, of: int) -> Iterator[int]:
    """Positions, in the order of all examples, of those that one of `of` processes takes."""
    for step in steps:
        first = (step * of + process) * batch_size
        yield from range(first, first + batch_size)


@lru_cache(maxsize=4)
def epoch_plan(total: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Order and coin flips of one epoch: int64 [total] and bool [total, 2] (vertical, horizontal).

    Sorts raw Philox words, whose stream NumPy never changes, instead of using its permutation.
    """
    words = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(2 * total)
    order = np.argsort(words[:total], kind="stable")
    coins = words[total:, None] >> np.array([63, 62], np.uint64) & np.uint64(1)
    return order, coins.astype(bool)


@lru_cache(maxsize=4)
def jpeg_qualities(total: int, seed: int, epoch: int, share: float) -> np.ndarray:
    """JPEG quality of each position of an epoch, int64 [total]; 0 where it is not saved again."""
    # The third word keeps this stream apart from that of the order.
    key = np.array([seed % 2**64, epoch], np.uint64)
    words = np.random.Philox(key=key, counter=[0, 0, 0, 1]).random_raw(2 * total)
    chosen = words[:total] < share * 2.0**64
    return np.where(chosen, 60 + words[total:] % np.uint64(39), 0).astype(np.int64)


def _batches(prepared: Prepared, split: str, plan: Iterator[_Item], size: int) -> Iterator[Batch]:
    """Reads, decodes and batches the examples that `plan` names, `size` to a batch."""
    threads = len(os.sched_getaffinity(0))
    # The order of the shards' names is that in which they were written.
    shards = sorted(map(str, prepared.dir.glob(f"*-{split}.array_record*")))
    records = lru_cache(partial(ArrayRecordDataSource, shards))  # which threads may share

    def load(items: tuple[_Item, ...]) -> Batch:
        try:
            examples = [_decode(records()[item.number], item, prepared.geometry) for item in items]
            return {name: np.stack([one[name] for one in examples]) for name in examples[0]}
        except (DecodeError, IndexError, OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the prepared records in {prepared.dir} cannot be read ({error}); delete that "
                "folder and prepare the data again"
            ) from error

    whole = zip(*[plan] * size, strict=False)
    most = max(4, _AHEAD // (3 * size * prepared.geometry.canvas**2))
    return read_ahead(load, whole, min(threads + 2, most), threads=threads)


def _decode(record: bytes, item: _Item, geometry: Geometry) -> Batch:
    """One example of a batch, on the canvas, flipped as told."""
    features = tf_example_pb2.Example.FromString(record).features.feature
    png = np.frombuffer(features["image"].bytes_list.value[0], np.uint8)
    picture = cv2.imdecode(png, cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ValueError("a picture in it cannot be decoded")
    if item.jpeg:
        picture = resave(picture, item.jpeg, "4:2:0")
    edge_map = np.array(features["edge_map"].float_list.value, np.float32)
    valid = valid_patches(picture.shape[0], picture.shape[1], geometry)
    image = pad(picture, geometry)
    for axis in item.flips:
        image = cv2.flip(image, axis)  # NumPy flips no bytes, and stacking a flipped view is slow.
    example = {
        "image": image,
        "edge_map": np.flip(edge_map.reshape(geometry.grid, geometry.grid), item.flips),
        "valid": np.flip(valid, item.flips),
    }
    example["label"] = np.array(features["label"].int64_list.value[0], np.int32)
    if item.weight is not None:
        example["weight"] = np.array(item.weight, np.float32)
    return example
