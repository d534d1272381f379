"""Reading ahead: in order, by threads, in bounded memory."""

import sys
import threading
import time

import pytest

from data_pipelines.read_ahead import batches_ahead, read_ahead


class _Files:
    """Loads numbers, slower the smaller they are, and knows how many nobody has taken yet."""

    def __init__(self) -> None:
        self.lock, self.loaded, self.taken, self.most_ahead = threading.Lock(), 0, 0, 0
        self.threads: set[int] = set()

    def load(self, number: int) -> int:
        time.sleep(0.002 * (5 - number % 5))
        with self.lock:
            self.loaded += 1
            self.most_ahead = max(self.most_ahead, self.loaded - self.taken)
            self.threads.add(threading.get_ident())
        return number

    def take(self, **options) -> list[int]:
        found = []
        for number in read_ahead(self.load, range(30), **options):
            time.sleep(0.001)
            found.append(number)
            self.taken += 1
        return found


def test_results_come_in_order_from_several_threads() -> None:
    files = _Files()
    assert files.take(depth=6) == list(range(30))
    assert 1 < len(files.threads) <= 4 and 1 < files.most_ahead <= 7  # one is in use


def test_fewer_are_read_ahead_where_they_are_large() -> None:
    files = _Files()
    files.take(depth=25, max_pixels=20, pixels=lambda _: 10)
    assert files.most_ahead <= 7  # Two wait, one is in use, and each thread had begun one.


def test_large_files_behind_small_ones_wait_for_room() -> None:
    sizes = [1] * 4 + [100] * 24
    held, most, lock = 0, 0, threading.Lock()

    def load(number: int) -> int:
        nonlocal held, most
        with lock:
            held += sizes[number]
            most = max(most, held)
        return number

    for batch in batches_ahead(load, range(28), 8, 32, lambda n: sizes[n]):
        time.sleep(0.005)  # Time to read all of them.
        with lock:
            held -= sum(sizes[number] for number in batch)
    assert most <= 600  # One in use, one asked for next, and one that each thread had begun.


def test_an_error_of_loading_reaches_the_reader_and_ends_the_threads() -> None:
    def load(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    before = threading.active_count()
    with pytest.raises(ValueError, match="three"):
        list(read_ahead(load, range(1000), 8))
    assert threading.active_count() == before


def test_nothing_is_loaded_for_a_reader_who_left() -> None:
    files = _Files()
    reader = read_ahead(files.load, range(30), 6)
    assert next(reader) == 0
    reader.close()
    loaded = files.loaded
    time.sleep(0.05)
    assert files.loaded == loaded < 8


def test_leaving_while_large_files_are_loaded_ends_all_threads() -> None:
    def leave_at_once() -> None:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            reader = read_ahead(lambda n: n, range(30), 16, max_pixels=5, pixels=lambda _: 3)
            next(reader), next(reader)
            reader.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # So that threads meet at every point.
    try:
        thread = threading.Thread(target=leave_at_once, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)


def test_batches_are_full_of_pictures_and_end_at_the_limit_of_pixels() -> None:
    sizes = [1, 0, 1, 1, 90, 1, 1, 0]  # 0: a file that cannot be used
    batches = batches_ahead(lambda n: n, range(8), 2, 90, lambda n: sizes[n])
    assert list(batches) == [[0, 1, 2], [3], [4], [5, 6], [7]]


def test_a_batch_ends_before_the_picture_that_would_pass_the_limit_of_pixels() -> None:
    batches = batches_ahead(lambda n: n, range(6), 4, 100, lambda n: 45)
    assert list(batches) == [[0, 1], [2, 3], [4, 5]]
