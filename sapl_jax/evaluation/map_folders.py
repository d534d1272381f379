"""Heat maps that any other tool wrote, found by their pictures' names and checked one by one.

A folder holds PNG, TIFF, NPY or NPZ files (TruFor's keys `map` and `score`), named as the pictures
are, with or without the picture's own suffix, flat or in the folders of the data set, and under a
folder of the data set's name where several share one. Scores may stand in `scores.csv`
(name,score).
"""

import collections
import csv
import math
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.images import MAX_PIXELS, decode_pixels, read_bytes
from data_pipelines.listing import Listing, Sample, existing_root, walk_files
from sapl_jax.errors import UserError
from sapl_jax.inference.detector import Result, result_of

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")
SCORES = "scores.csv"
_SLACK = 1e-5  # what float arithmetic may leave outside [0, 1]
_Rows = Sequence[tuple[str, Any]]  # names as `_key` has them, with a map's path or a score


class MapFolder:
    """A method whose answers lie in a folder; `assign` first, then `read`."""

    def __init__(self, folder: str | Path, sets: Iterable[str] = ()) -> None:
        """Lists a folder for a run of the data `sets`; UserError: none, no maps, bad scores.csv."""
        self._sets = {_key(name) for name in sets}
        self.folder = existing_root(folder)
        paths = [Path(p) for p in walk_files(self.folder) if p.lower().endswith(SUFFIXES)]
        # By the path below the folder, without the map's own suffix.
        self._maps = [(_key(p.relative_to(self.folder).with_suffix("")), p) for p in paths]
        if not self._maps:
            raise UserError(f"{folder} holds no map: expected {', '.join(SUFFIXES)} files in it")
        self._rows = _read_scores(self.folder / SCORES)
        self._found: dict[str, tuple[Path | str, float | None]] = {}

    def assign(self, listing: Listing, label: str) -> list[str]:
        """Gives each picture of a data set its map; returns what there is to say of the rest."""
        folders = {key.partition("/")[0] for key, _ in self._maps if "/" in key}
        # Of a set without a folder here, those of the run's other sets.
        others = folders - {_key(label)} if _key(label) in folders else folders & self._sets
        maps, scores = (_of_set(rows, label, others) for rows in (self._maps, self._rows))
        by_name, scores_by_name = _index(maps), _index(scores)
        claims = {s.name: _match(by_name, s.name, label) for s in listing.samples}
        owners = collections.defaultdict(list)
        for name, paths in claims.items():
            if len(paths) == 1:
                owners[paths[0]].append(name)
        for name, paths in claims.items():
            values = set(_match(scores_by_name, name, label))  # of two, neither is taken
            score = values.pop() if len(values) == 1 else None
            self._found[name] = (self._choose(paths, owners), score)
        claimed = {path for paths in claims.values() for path in paths}
        spare = sorted(str(p.relative_to(self.folder)) for _, p in maps if p not in claimed)
        missing = sum(isinstance(self._found[name][0], str) for name in claims)
        notes = [f"{self.folder}: {missing} of {len(claims)} pictures have no map that can be used"]
        extra = f"{self.folder}: maps that are no picture's ({len(spare)}): {', '.join(spare[:5])}"
        return notes * (missing > 0) + [extra] * bool(spare)

    def _choose(self, paths: list[Path], owners: dict[Path, list[str]]) -> Path | str:
        if not paths:
            return f"no map in {self.folder} has its name"
        if len(paths) > 1:
            names = ", ".join(str(path.relative_to(self.folder)) for path in paths[:4])
            return f"several maps in {self.folder} match it: {names}"
        if len(sharing := owners[paths[0]]) > 1:
            return (
                f"{paths[0]} has the name of several pictures ({', '.join(sharing[:3])}): refused; "
                "keep the data set's folders"
            )
        return paths[0]

    def read(self, sample: Sample, size: tuple[int, int]) -> tuple[Result, list[str]]:
        """A picture's map and score, NaN where the tool gave none, and what to know about them.

        The map is brought to `size`, the picture's height and width in pixels.

        Raises:
            UserError: no map, or one that cannot be used, with the reason.
        """
        path, listed = self._found[sample.name]
        if isinstance(path, str):
            raise UserError(path)
        heat_map, own, notes = read_map(path)
        score = listed if own is None else own
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"{path}: its score is {score:g}, expected 0 to 1")
        if heat_map.shape != size:
            found, wanted = (f"{s[1]}x{s[0]}" for s in (heat_map.shape, size))
            if heat_map.shape == size[::-1]:
                raise UserError(f"{path} is {found}, its picture {wanted}: transposed, or turned")
            ratio = heat_map.shape[1] * size[0] / (heat_map.shape[0] * size[1])
            notes.append(f"map {path} is {found}, resized to {wanted}")
            if not 0.95 < ratio < 1.05:
                notes[-1] += "; its sides have another ratio, is it cut or padded?"
            shrinks = heat_map.size > size[0] * size[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            heat_map = np.clip(cv2.resize(heat_map, size[::-1], interpolation=how), 0, 1)
        return result_of(math.nan if score is None else score, heat_map), notes


def read_map(path: Path) -> tuple[np.ndarray, float | None, list[str]]:
    """One file as (float32 [H, W] in [0, 1], the score in it, notes).

    8 and 16 bits are divided by their largest number, truth values are 0 and 1.

    Raises:
        UserError: unreadable, not one channel, not finite, or outside [0, 1].
    """
    score, notes = None, []
    if path.suffix.lower() in (".npy", ".npz"):
        values, score = _read_numpy(path)
    else:
        values = decode_pixels(read_bytes(path), path, cv2.IMREAD_UNCHANGED, MAX_PIXELS)
        if values.ndim == 3:
            colours = values[..., :3]
            if np.any(colours != colours[..., :1]):
                raise UserError(f"{path} is a colour picture, expected one channel of 8 or 16 bits")
            values = colours[..., 0]
    values = np.squeeze(values) if values.ndim > 2 else values
    if values.ndim != 2 or not values.size or values.dtype.kind not in "buif":
        raise UserError(f"{path} is {values.dtype} {list(values.shape)}, expected numbers [H, W]")
    if values.dtype in (np.uint8, np.uint16):
        most = np.iinfo(values.dtype).max
        if values.max() == 1:
            notes.append(f"map {path} has only 0 and 1 of {most}: is it a mask?")
        values = values / np.float32(most)
    values = values.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise UserError(f"{path} has {bad} values that are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise UserError(f"{path} has values from {low:g} to {high:g}, expected 0 (authentic) to 1")
    if low == high:
        notes.append(f"map {path} is {low:g} everywhere")
    return np.clip(values, 0, 1), score, notes


def _read_numpy(path: Path) -> tuple[np.ndarray, float | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            if "map" not in loaded and len(loaded.files) != 1:
                raise UserError(f"{path} has {', '.join(loaded.files)}; expected the key map")
            values = loaded["map" if "map" in loaded else loaded.files[0]]
            score = float(loaded["score"].item()) if "score" in loaded else None
            return values, score
    except UserError:
        raise
    except Exception as error:  # of any kind, by what is damaged
        # NumPy takes unknown bytes for a pickle and advises how to load it all the same.
        reason = "damaged, or no numbers" if "pickle" in str(error) else error
        raise UserError(f"{path} is not a readable {path.suffix} file ({reason})") from error


def _read_scores(path: Path) -> list[tuple[str, float]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [(_key(row["name"]), float(row["score"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        message = f"{path} is not a table with the columns name and score ({error})"
        raise UserError(message) from error


def _of_set(rows: _Rows, label: str, others: set[str]) -> _Rows:
    """The (key, value) in the folder of a data set, or else those in no folder of another set."""
    own = [row for row in rows if row[0].startswith(_key(label) + "/")]
    return own or [row for row in rows if row[0].partition("/")[0] not in others]


def _index(rows: _Rows) -> dict[str, list[Any]]:
    """The values by their whole key, with a slash in front, and by the bare name."""
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for key, value in rows:
        found["/" + key].append(value)
        found[key.rpartition("/")[2]].append(value)
    return found


def _match(found: dict[str, list[Any]], name: str, label: str) -> list[Any]:
    """What is known under a picture's name, by the most exact of the ways to write it."""
    whole, bare = _key(name), _key(name).rpartition("/")[2]
    names = [prefix + n for prefix in (f"/{_key(label)}/", "/") for n in (whole, bare)] + [bare]
    keys = (key for name in names for key in (name, name.rpartition(".")[0]))
    return next((found[key] for key in keys if key in found), [])


def _key(path: str | Path) -> str:
    """A path as it compares: Windows' separators, letter case and accents do not matter."""
    return unicodedata.normalize("NFC", str(path).replace("\\", "/")).casefold().strip("/")
