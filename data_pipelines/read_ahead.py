"""Reads files in threads, a little ahead of whoever uses them, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
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

    No thread begins another while those that wait have `max_pixels` or more, but for the one that
    is asked for next. Threads are enough: OpenCV and hashlib release the interpreter lock.
    """
    remaining = enumerate(items)
    waiting: deque[Future[Loaded]] = deque()
    room = Condition()
    held = given = 0  # pixels that wait, and items that were handed over

    def load_when_there_is_room(number: int, item: Item) -> Loaded:
        nonlocal held
        with room:
            room.wait_for(lambda: held < max_pixels or not 0 <= given < number)
        if given < 0:
            raise CancelledError
        loaded = load(item)
        with room:
            held += pixels(loaded)
        return loaded

    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for number, item in islice(remaining, depth - len(waiting)):
                waiting.append(pool.submit(load_when_there_is_room, number, item))
            if not waiting:
                return
            loaded = waiting.popleft().result()
            with room:
                held, given = held - pixels(loaded), given + 1
                room.notify_all()
            yield loaded
    finally:
        with room:  # Those that wait for room leave.
            held, given = -1, -1
            room.notify_all()
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
    """What `read_ahead` gives, in lists of `batch_size` pictures, fewer for `max_pixels` at most.

    A picture of more is alone. What has no pixels, since its file cannot be used, travels along.
    """
    batch: list[Loaded] = []
    pictures = total = 0
    for loaded in read_ahead(load, items, 2 * batch_size, max_pixels=max_pixels, pixels=pixels):
        size = pixels(loaded)
        if total and total + size > max_pixels:
            yield batch
            batch, pictures, total = [], 0, 0
        batch.append(loaded)
        pictures, total = pictures + (size > 0), total + size
        if pictures == batch_size:
            yield batch
            batch, pictures, total = [], 0, 0
    if batch:
        yield batch
