"""The folder that predictions go to: its lock, what it holds already, names, and writing.

No picture or prediction in it is overwritten: a name that is taken is passed over for another.
`predictions.jsonl` gets a line only after the pictures of that line are written, so whatever kills
a run, the next one continues behind the last whole line.
"""

import itertools
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from sapl_jax.errors import UserError
from sapl_jax.files import hold_lock, sha256_of, write_atomically, writing

RECORDS = "predictions.jsonl"
SKIPPED = "skipped.jsonl"
LOCK = ".lock"
ENDINGS = ("heatmap", "mask", "overlay")
_MAX_STEM_BYTES = 180  # File systems allow 255 for a name; ending, hash and suffix come behind.


class OutputFolder:
    """An output folder held for one run; `open` is the way in.

    `settings`: what must be equal for all predictions in it (model, threshold, tiles).
    """

    _records: TextIO

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder, self.settings = folder, dict(settings)
        # What each picture's files end in, with their suffixes.
        self._endings = {ending: f"{ending}.png" for ending in ENDINGS}
        if self.settings.get("report"):
            self._endings["report"] = "report.html"
        self._done: dict[tuple[str, str], dict[str, Any]] = {}
        self._taken: set[str] = set()

    @classmethod
    @contextmanager
    def open(cls, folder: Path, settings: Mapping[str, Any]) -> Iterator["OutputFolder"]:
        """Makes and locks the folder, reads what it holds, and lets go of it in the end.

        Raises:
            UserError: it cannot be written, another run holds it, or its predictions were made with
                other settings or are damaged.
        """
        output = cls(folder, settings)
        with output._writing():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOCK).touch()
        busy = f"Another run is writing to {folder}. Wait for it or give another --output."
        with hold_lock(folder / LOCK, busy=busy):
            output._read()
            with output._writing(), (folder / RECORDS).open("a", encoding="ascii") as records:
                output._records = records
                yield output

    def _writing(self) -> AbstractContextManager[None]:
        kept = "What is there is kept: mend that and run the same command to continue, or give"
        return writing(self.folder, f"{kept} another --output.")

    def holds(self, path: Path, sha256: str) -> bool:
        """Whether a file's prediction is there with all its pictures."""
        record = self._done.get((str(path), sha256))
        return record is not None and all(
            (self.folder / record["files"][ending]).is_file() for ending in self._endings
        )

    def add(self, path: Path, pictures: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
        """Writes one prediction: bytes of each file by ending ("heatmap", "mask", "overlay").

        The stem of `path` names them; `record` has "sha256"; path, settings and names are added.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        key = str(path), record["sha256"]
        before = self._done.get(key)
        files = before["files"] if before else self._free_names(path, pictures)
        with self._writing():
            for ending, name in files.items():
                if not os.path.lexists(self.folder / name):
                    write_atomically(self.folder / name, pictures[ending])
            if before is None:  # Else only pictures were removed; the line is still true.
                whole = {"path": str(path), **record, **self.settings, "files": files}
                # Escaped to ASCII: a name may hold anything, also bytes that are no text at all.
                self._records.write(json.dumps(whole, allow_nan=False) + "\n")
                self._records.flush()
                self._done[key] = whole

    def write_skipped(self, skipped: list[tuple[Path, str]]) -> None:
        """Lists what this run could not use in skipped.jsonl; removes the list of a run before."""
        target = self.folder / SKIPPED
        lines = [json.dumps({"path": str(path), "reason": reason}) for path, reason in skipped]
        with self._writing():
            target.unlink(missing_ok=True)
            if lines:
                write_atomically(target, ("\n".join(lines) + "\n").encode("ascii"))

    def _read(self) -> None:
        path = self.folder / RECORDS
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f"{path} is not a plain file; give another --output.")
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                key = record["path"], record["sha256"]
                self._check_settings(record)
                names = [record["files"][ending].casefold() for ending in self._endings]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}, line {number} is not a prediction of this command ({error}). Nothing "
                    "was changed; give another --output."
                ) from error
            self._done[key] = record
            self._taken.update(names)
        if whole < len(data):
            # A run was killed inside this line; its picture is analysed again.
            with self._writing(), path.open("r+b") as file:
                file.truncate(whole)

    def _check_settings(self, record: dict[str, Any]) -> None:
        if differing := [
            f"{name}: {record.get(name)!r} there, {value!r} now"
            for name, value in self.settings.items()
            if record.get(name) != value
        ]:
            listed = "\n  ".join(differing)
            raise UserError(
                f"{self.folder} holds predictions that were made otherwise:\n  {listed}\n"
                "Nothing was changed. Give another --output."
            )

    def _free_names(self, path: Path, pictures: Mapping[str, bytes]) -> dict[str, str]:
        """The first names, by ending, that are free or hold exactly these pictures already."""
        stem = safe_stem(path)
        digest = sha256_of(os.fsencode(path))
        numbered = (f"{stem}-{digest[:8]}-{number}" for number in range(2, 10_000))
        for candidate in itertools.chain([stem, f"{stem}-{digest[:8]}"], numbered):
            names = {ending: f"{candidate}_{name}" for ending, name in self._endings.items()}
            folded = {name.casefold() for name in names.values()}
            # A killed run may have left these very pictures without a line.
            if self._taken.isdisjoint(folded) and all(
                _absent_or_equal(self.folder / name, pictures[ending])
                for ending, name in names.items()
            ):
                self._taken |= folded
                return names
        raise UserError(f"{self.folder} has too many files named {stem}; give another --output.")


def safe_stem(path: Path) -> str:
    """A file's stem as a name that is harmless on every system: no separators, controls, dashes."""
    stem = os.fsencode(path.stem).decode("utf-8", "replace")
    kept = "".join(
        "_" if character in '/\\:*?"<>|' or unicodedata.category(character)[0] == "C" else character
        for character in stem
    )
    kept = kept.encode()[:_MAX_STEM_BYTES].decode("utf-8", "ignore").rstrip(". ")
    return f"_{kept}" if not kept or kept[0] in ".-~ " else kept


def _absent_or_equal(path: Path, data: bytes) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(data):
        return not os.path.lexists(path)
    return path.read_bytes() == data
