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
from collections.abc import Iterator, Sequence
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

    def __init__(self, folder: str | Path) -> None:
        """Lists the folder; UserError where it is not one, has no maps, or a scores.csv is bad."""
        self.folder = existing_root(folder)
        paths = [Path(path) for path in walk_files(self.folder)]
        # By the path below the folder, without the map's own suffix.
        self._maps = [
            (_key(path.relative_to(self.folder).with_suffix("")), path)
            for path in paths
            if path.suffix.lower() in SUFFIXES
        ]
        if not self._maps:
            raise UserError(f"{folder} holds no map: expected {', '.join(SUFFIXES)} files in it")
        self._rows = _read_scores(self.folder / SCORES)
        self._found: dict[str, Path | str] = {}
        self._scores: dict[str, list[float]] = {}

    def assign(self, listing: Listing, label: str) -> list[str]:
        """Gives each picture of a data set its map; returns what there is to say of the rest."""
        folders = {key.partition("/")[0] for key, _ in self._maps if "/" in key}
        others = folders - {_key(label)} if _key(label) in folders else set()
        maps = _of_set(self._maps, label, others)
        by_name = _index(maps)
        self._scores = _index(_of_set(self._rows, label, others))
        found = {s.name: self._choose(s, label, by_name) for s in listing.samples}
        owners = collections.defaultdict(list)
        for name, path in found.items():
            if isinstance(path, Path):
                owners[path].append(name)
        for path, names in owners.items():
            if len(names) > 1:
                reason = (
                    f"{path} has the name of several pictures ({', '.join(names[:3])}): refused"
                )
                found.update(dict.fromkeys(names, f"{reason}; keep the data set's folders"))
        self._found = found
        spare = sorted(str(p.relative_to(self.folder)) for _, p in maps if p not in owners)
        missing = sum(isinstance(path, str) for path in found.values())
        notes = [f"{self.folder}: {missing} of {len(found)} pictures have no map that can be used"]
        extra = f"{self.folder}: {len(spare)} maps are no picture's: {', '.join(spare[:5])}"
        return notes * (missing > 0) + [extra] * bool(spare)

    def _choose(self, sample: Sample, label: str, by_name: dict[str, list[Path]]) -> Path | str:
        for key in _keys(sample.name, label):
            paths = by_name.get(key, [])
            if len(paths) > 1:
                names = ", ".join(str(path.relative_to(self.folder)) for path in paths[:4])
                return f"several maps in {self.folder} match it: {names}"
            if paths:
                return paths[0]
        return f"no map in {self.folder} has its name"

    def read(self, sample: Sample, size: tuple[int, int], label: str) -> tuple[Result, list[str]]:
        """A picture's map and score, NaN where the tool gave none, and what to know about them.

        Args:
            size: the picture's height and width in pixels, which the map is brought to.

        Raises:
            UserError: no map, or one that cannot be used, with the reason.
        """
        path = self._found[sample.name]
        if isinstance(path, str):
            raise UserError(path)
        heat_map, score, notes = read_map(path)
        if score is None:
            rows = (self._scores[k] for k in _keys(sample.name, label) if k in self._scores)
            values = set(next(rows, []))
            score = values.pop() if len(values) == 1 else None  # of two, neither is taken
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"{path}: its score is {score:g}, expected 0 to 1")
        if heat_map.shape != size:
            found, wanted = (f"{s[1]}x{s[0]}" for s in (heat_map.shape, size))
            if heat_map.shape == size[::-1]:
                raise UserError(f"{path} is {found}, its picture {wanted}: transposed, or turned")
            shape = heat_map.shape[1] * size[0] / (heat_map.shape[0] * size[1])
            other = (
                ""
                if 0.95 < shape < 1.05
                else "; its sides have another ratio, is it cut or padded?"
            )
            notes.append(f"map {path} is {found}, resized to {wanted}{other}")
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
        if values.max() == 1:
            notes.append(
                f"map {path} has only 0 and 1 of {np.iinfo(values.dtype).max}: is it a mask?"
            )
        values = values / np.float32(np.iinfo(values.dtype).max)
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
        raise UserError(f"{path} is not a readable {path.suffix} file ({error})") from error


def _read_scores(path: Path) -> list[tuple[str, float]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [(_key(row["name"]), float(row["score"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} is not a table with the columns name and score ({error})"
        ) from error


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


def _keys(name: str, label: str) -> Iterator[str]:
    """What a picture's map may be called, the most exact first."""
    whole, bare = _key(name), _key(name).rpartition("/")[2]
    for prefix in (f"/{_key(label)}/", "/"):
        for text in (whole, bare):
            yield from (prefix + text, prefix + text.rpartition(".")[0])
    yield from (bare, bare.rpartition(".")[0])


def _key(path: str | Path) -> str:
    """A path as it compares: Windows' separators, letter case and accents do not matter."""
    return unicodedata.normalize("NFC", str(path).replace("\\", "/")).casefold().strip("/")
