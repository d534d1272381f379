"""Reads files in threads, a little ahead of whoever uses them, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def read_ahead(
    load: Callable[[Item], Loaded],
    items: Iterable[Item],
    depth: int,
    *,
    threads: int = 4,
    max_pixels: int = 1,
    pixels: Callable[[Loaded], int] = lambda _: 0,
) -> Iterator[Loaded]:
    """load(item) of every item in order, at most `depth` of them not yet asked for.

    Fewer where they are large: as many as fit into `max_pixels`, were all as large as the last
    one, and at least one. Threads are enough: OpenCV and hashlib release the interpreter lock.
    """
    remaining = iter(items)
    waiting: deque[Future[Loaded]] = deque()
    ahead = 1
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for item in islice(remaining, max(0, ahead - len(waiting))):
                waiting.append(pool.submit(load, item))
            if not waiting:
                return
            loaded = waiting.popleft().result()
            size = pixels(loaded)
            ahead = max(1, min(depth, max_pixels // size)) if size else depth
            yield loaded
    finally:
        for future in waiting:  # Not the pool's own cancelling, which fails at the end of Python.
            future.cancel()
        pool.shutdown()


def batches_ahead(
    load: Callable[[Item], Loaded],
    items: Iterable[Item],
    batch_size: int,
    max_pixels: int,
    pixels: Callable[[Loaded], int],
) -> Iterator[list[Loaded]]:
    """What `read_ahead` gives, in lists of `batch_size` pictures, fewer from `max_pixels` on.

    What has no pixels, since its file cannot be used, travels along.
    """
    batch: list[Loaded] = []
    for loaded in read_ahead(load, items, 2 * batch_size, max_pixels=max_pixels, pixels=pixels):
        batch.append(loaded)
        sizes = [size for size in map(pixels, batch) if size]
        if len(sizes) == batch_size or sum(sizes) >= max_pixels:
            yield batch
            batch = []
    if batch:
        yield batch
