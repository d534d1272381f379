"""Writes generated pictures as an Au/ + Tp/ + Gt/ folder: atomic, resumable, in parallel."""

import csv
import errno
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2

from data_pipelines.generator.examples import WORLDS, Example, kind_of, make_example, sources_of
from data_pipelines.generator.photographs import (
    forged_kind_of,
    forged_sources_of,
    open_library,
    photograph_example,
)
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.errors import UserError
from sapl_jax.files import PARTIAL, hold_lock, write_atomically

MARK = "generator.json"
SOURCES = "sources.csv"
# Raised whenever the same seed would give other pictures.
VERSION = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Recipe(NamedTuple):
    """A numbered set: what tells it from others; a picture's kind, sources, making by number."""

    settings: dict[str, object]
    kind: Callable[[int], str]
    sources: Callable[[int], tuple]
    make: Callable[[int], Example]


def generate(
    output: str | Path,
    images: int,
    seed: int,
    size: int = 256,
    *,
    world: str = "interior",
    photographs: str | Path | None = None,
    segments: str | Path | None = None,
    split: str = "train",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes `images` pictures, half authentic and half tampered, into `output`; returns it.

    world: one of examples.WORLDS. photographs: a folder of real photographs to take instead of
    generated scenes, of which `split` names the share and `segments` has label images (see
    `photographs.open_library`).

    Layout: Au/<n>_authentic.jpg, Tp/<n>_<kind>.jpg, Gt/<n>_<kind>_gt.png (255 = tampered);
    `generator.json` marks the folder, `sources.csv` names each picture's sources. Pictures that
    are there already are kept, so an interrupted call is continued and a larger `images` adds to
    a folder; a second process waits for the first. No file is ever seen half written.

    Raises:
        UserError: fewer than 2 images, a size below 64, a folder that holds something else or the
            pictures of another seed, size, world, library or version, no permission, a full disk,
            photographs that cannot be used.
    """
    folder = Path(output).expanduser()
    if images < 2:
        raise UserError(f"--images {images}: expected at least 2, one of each class")
    if size < 64:
        raise UserError(f"--size {size}: expected at least 64 pixels on the longer side")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected 0 or more")
    if world not in WORLDS:
        raise UserError(f"--world {world}: expected one of {', '.join(WORLDS)}")
    recipe = _Recipe(
        {} if world == "interior" else {"world": world},
        partial(kind_of, seed, world=world),
        partial(sources_of, seed, world=world),
        partial(make_example, seed, size=size, world=world),
    )
    if photographs is not None:
        library = open_library(photographs, segments, split)
        recipe = _Recipe(
            library.settings(),
            partial(forged_kind_of, seed),
            partial(forged_sources_of, library, seed),
            partial(photograph_example, library, seed, size=size),
        )
    settings = {"generator": "sapl_jax", "version": VERSION, "seed": seed, "size": size}
    try:
        _claim(folder, settings | recipe.settings)
        with hold_lock(folder / MARK, waiting_for="generates the same pictures"):
            missing = [n for n in range(images) if not _picture_path(folder, recipe, n).is_file()]
            bar = ProgressBar(
                total=images,
                initial=images - len(missing),
                unit="pictures",
                desc=f"generating {folder.name}",
                disable=not progress,
            )
            with bar:
                for _ in _write_all(folder, missing, recipe, workers or os.cpu_count() or 1):
                    bar.update()
            _write_sources(folder, images, recipe)
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"{folder}: the disk is full. Free some space and run the same command again; "
                "the pictures written so far are kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{folder}: cannot write there ({error.strerror}).") from error
        raise
    return folder


def _claim(folder: Path, settings: dict[str, object]) -> None:
    """Marks an empty folder as ours, or checks that it is ours and of the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    if mark.is_file():
        try:
            found = json.loads(mark.read_text())
        except ValueError:
            found = None
        if found != settings:
            raise UserError(
                f"{folder} holds pictures generated with {found}, but {settings} was asked for. "
                "Choose another --output, or delete that folder."
            )
    elif any(path.suffix != PARTIAL for path in folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and was not made by this command (no {MARK} in it); nothing "
            "was written. Choose another --output."
        )
    else:
        write_atomically(mark, (json.dumps(settings) + "\n").encode())


def _picture_path(folder: Path, recipe: _Recipe, number: int) -> Path:
    kind = recipe.kind(number)
    return folder / ("Au" if kind == "authentic" else "Tp") / f"{number:06d}_{kind}.jpg"


def _write_all(folder: Path, numbers: list[int], recipe: _Recipe, workers: int) -> Iterator[None]:
    """Writes the pictures of these numbers, yielding after each."""
    jobs = [(folder, number, recipe) for number in numbers]
    if workers == 1 or len(jobs) < 8:
        yield from map(_write_one, jobs)
        return
    # Spawned, not forked: the caller may run threads (JAX, TensorFlow).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            yield from pool.map(_write_one, jobs, chunksize=4)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one_thread() -> None:
    cv2.setNumThreads(1)  # The processes fill the cores.


def _write_one(job: tuple[Path, int, _Recipe]) -> None:
    folder, number, recipe = job
    path = _picture_path(folder, recipe, number)
    example = recipe.make(number)
    if example.mask is not None:
        png = cv2.imencode(".png", example.mask)[1]
        # The mask first: a picture that is there has its mask.
        write_atomically(folder / "Gt" / f"{path.stem}_gt.png", png.tobytes())
    write_atomically(path, example.jpeg)


def _write_sources(folder: Path, images: int, recipe: _Recipe) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "kind", "sources"])
    for number in range(images):
        name = _picture_path(folder, recipe, number).relative_to(folder).as_posix()
        sources = "/".join(map(str, recipe.sources(number)))  # no file name has a slash
        writer.writerow([name, recipe.kind(number), sources])
    write_atomically(folder / SOURCES, text.getvalue().encode())
