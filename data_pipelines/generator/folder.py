"""Writes generated pictures as an Au/ + Tp/ + Gt/ folder: atomic, resumable, in parallel."""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from data_pipelines.generator import examples
from data_pipelines.generator import photographs as forged
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.errors import UserError
from sapl_jax.files import PARTIAL, hold_lock, write_atomically, writing

MARK = "generator.json"
SOURCES = "sources.csv"
# Of each world and of forged photographs: raised when the same seed would give other pictures.
VERSIONS = {"interior": 1, "seam": 2, "both": 2, "copy-move": 1, "photographs": 3}


class _Recipe(NamedTuple):
    """A numbered set: a picture's kind, its sources and how it is made, by number."""

    kind: Callable[[int], str]
    sources: Callable[[int], tuple[str, ...]]
    make: Callable[[int], examples.Example]

    def path(self, number: int) -> str:
        """The picture's place below the folder."""
        kind = self.kind(number)
        return f"{'Au' if kind == 'authentic' else 'Tp'}/{number:06d}_{kind}.jpg"


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
) -> Path:
    """Writes `images` pictures, half authentic and half tampered, into `output`; returns it.

    world: one of examples.WORLDS. photographs: a folder of real ones to take instead of generated
    scenes (world: "interior" for forgeries of all kinds, or "copy-move"), with `segments` and
    `split` as in `photographs.open_library`.

    Layout: Au/<n>_authentic.jpg, Tp/<n>_<kind>.jpg, Gt/<n>_<kind>_gt.png (255 = tampered);
    `generator.json` marks the folder, `sources.csv` names each picture's sources. Pictures that
    are there already are kept, so an interrupted call is continued and a larger `images` adds to
    a folder (a smaller one is refused); a second process waits for the first. No file is ever seen
    half written.

    images: 2 or more. size: of the longer side, 64 pixels or more. Raises UserError for a folder
    that holds something else or the pictures of another seed, size, world, library or version, no
    permission, a full disk, photographs that cannot be used.
    """
    folder = Path(output).expanduser()
    version = VERSIONS[world if photographs is None else "photographs"]
    settings: dict[str, Any] = {"generator": "sapl_jax", "version": version}
    settings |= {"seed": seed, "size": size} | ({} if world == "interior" else {"world": world})
    if photographs is not None:
        if world not in ("interior", "copy-move"):
            raise UserError(
                f"--world {world} is for generated pictures; with --photographs leave it out "
                "(forgeries of all kinds) or give copy-move (unblended copies only)"
            )
        library = forged.open_library(photographs, segments, split)
        settings |= library.settings()
        recipe = _Recipe(
            partial(forged.forged_kind_of, seed, world=world),
            partial(forged.forged_sources_of, library, seed, world=world),
            partial(forged.photograph_example, library, seed, size=size, world=world),
        )
    else:
        recipe = _Recipe(
            partial(examples.kind_of, seed, world=world),
            partial(examples.sources_of, seed, world=world),
            partial(examples.make_example, seed, size=size, world=world),
        )
    with writing(folder, "Free some space and run the same command, or choose another --output."):
        _claim(folder, settings)
        with hold_lock(folder / MARK, waiting_for="generates the same pictures"):
            there = [path.name.partition("_")[0] for path in folder.glob("[AT][up]/*.jpg")]
            if (least := max((int(n) for n in there if n.isdigit()), default=-1) + 1) > images:
                raise UserError(
                    f"{folder} holds pictures up to number {least - 1}. Give --images {least} or "
                    "more, or another --output."
                )
            # Before the pictures: of what an interrupted call leaves the sources are known.
            _write_sources(folder, images, recipe)
            missing = [n for n in range(images) if not (folder / recipe.path(n)).is_file()]
            done = _write_all(folder, missing, recipe, workers or len(os.sched_getaffinity(0)))
            look = {"desc": f"generating {folder.name}", "unit": "pictures"}
            for _ in ProgressBar(done, total=images, initial=images - len(missing), **look):
                pass
    return folder


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Marks an empty folder as ours, or checks that it is ours and of the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    mark, found = folder / MARK, None
    if mark.is_file():
        with suppress(ValueError):
            found = json.loads(mark.read_text())
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


def _write_all(folder: Path, numbers: list[int], recipe: _Recipe, workers: int) -> Iterator[None]:
    """Writes the pictures of these numbers, yielding after each."""
    write = partial(_write_one, folder, recipe)
    if workers == 1 or len(numbers) < 8:
        yield from map(write, numbers)
        return
    # Spawned, not forked: the caller may run threads. The processes fill the cores.
    context, one_thread = multiprocessing.get_context("spawn"), partial(cv2.setNumThreads, 1)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread)
    try:
        yield from pool.map(write, numbers, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_one(folder: Path, recipe: _Recipe, number: int) -> None:
    path, example = folder / recipe.path(number), recipe.make(number)
    if example.mask is not None:
        png = cv2.imencode(".png", example.mask)[1]
        # The mask first: a picture that is there has its mask.
        write_atomically(folder / "Gt" / f"{path.stem}_gt.png", png.tobytes())
    write_atomically(path, example.jpeg)


def _write_sources(folder: Path, images: int, recipe: _Recipe) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "kind", "sources"])
    for n in range(images):  # No file name has a slash.
        writer.writerow([recipe.path(n), recipe.kind(n), "/".join(recipe.sources(n))])
    write_atomically(folder / SOURCES, text.getvalue().encode())
