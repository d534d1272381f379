"""Files and what is installed: the one atomic write, the one lock, hashes, versions."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sapl_jax.errors import UserError

PARTIAL = ".partial"  # Suffix of a file that is being written; hidden, beside its final name.
_PACKAGES = ("sapl-jax", "jax", "jaxlib", "flax", "numpy", "opencv-python-headless")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Folders above it are made. A link in its place is replaced, never followed. Text that UTF-8 does
    not have, as in names of files, is escaped.

    Raises:
        OSError: it cannot be written, or the disk is full; what was there is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    # A short name of its own: the final one may be as long as names can be.
    partial = path.with_name(f".{sha256_of(os.fsencode(path.name))[:16]}{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; NaN is a ValueError: an absent number is null. OSError as above."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def hold_lock(lock_file: Path, *, busy: str = "", waiting_for: str = "") -> Iterator[None]:
    """Holds a lock on a file (made when it is not there, never changed) inside the context.

    Args:
        lock_file: what all processes that must not meet lock.
        busy: message of the UserError where another process holds it; without one it is waited for.
        waiting_for: what stderr then says: "waiting for another process that `waiting_for`".

    Raises:
        UserError: another process holds it, and `busy` is given; or the file system has no locks.
        OSError: the file cannot be made.
    """
    with lock_file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if busy:
                raise UserError(busy) from error
            print(f"waiting for another process that {waiting_for}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # as Lustre's that was mounted without flock
            raise UserError(f"{lock_file} cannot be locked: choose another file system") from error
        yield


@contextmanager
def writing(what: object, do: str) -> Iterator[None]:
    """Turns an OSError inside the context into the UserError that `what` cannot be written.

    `do`: what its user is to do, as sentences.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} cannot be written: {error.strerror or error}. {do}") from error


def make_output_folder(path: Path) -> None:
    """Creates a folder; UserError, before any work is done, where it cannot be written."""
    with writing(f"the output folder {path}", "Choose another."):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


def sha256_of(data: bytes | memoryview) -> str:
    """SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(path: Path) -> str:
    """SHA-256 of a file, or of all files below a folder with their names."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(os.fsencode(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n"))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can move a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
