"""One process at a time, where several would write the same files."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_one(lock_file: Path, what: str) -> Iterator[None]:
    """Holds a lock on a file (made when it is not there, never changed) inside the context.

    Waits, and says so on stderr, while another process holds it; `what`: that process, in words.
    """
    with lock_file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that {what}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
