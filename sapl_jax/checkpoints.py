"""One folder of checkpoints on disk; the only file that imports Orbax.

Each checkpoint has the training state as a flat {name: array} and a small JSON record with shape,
dtype and SHA-256 of every array and of itself, so a checkpoint that comes back is the one that was
saved, or is known to be damaged. Frozen CLIP weights are not in it; their source and sha256 are.
"""

import functools
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from sapl_jax.errors import UserError
from sapl_jax.files import sha256_of, writing

FORMAT_VERSION = 1  # Raised when a checkpoint of the version before can no longer be read.
T = TypeVar("T")
log = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A checkpoint that is not, or not wholly, what was saved."""


class Restored(NamedTuple):
    """A checkpoint read back: its step, the state in host memory and the JSON record."""

    step: int
    state: Any
    record: dict[str, Any]


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, such as "params/prompts/context"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_clip(then: dict[str, Any], now: dict[str, Any]) -> None:
    """UserError unless the CLIP of a run, as its record has it, is the one that is there now."""
    if (then["sha256"] or then["name"]) != (now["sha256"] or now["name"]):  # Random has a name.
        raise UserError(
            f"The run was trained on other CLIP weights:\n  then: {json.dumps(then)}\n"
            f"  now:  {json.dumps(now)}\nRestore those weights, or train in a new --workdir."
        )


class CheckpointFolder:
    """One series of checkpoints in a folder, written in the background, oldest removed.

    It belongs to one process: in a run of several only the first one opens it.
    """

    def __init__(self, folder: Path, keep: int | None = None, *, read_only: bool = False):
        """Opens the folder; at most `keep` checkpoints stay (None: all).

        Unless `read_only`, creates the folder and removes what killed runs left half written, so
        no other run may be writing there.
        """
        this = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=this, active_processes={this}, barrier_sync_key_prefix=folder.name
        )
        self.folder = folder.absolute()
        if not read_only:
            with writing(f"The checkpoint folder {folder}", "Choose another."):
                self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        # Orbax does not support create=True for one process of several.
        how = {"max_to_keep": keep, "read_only": read_only, "create": False}
        options = ocp.CheckpointManagerOptions(**how, multiprocessing_options=alone)
        handlers = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            "record": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        if not read_only and keep is not None:
            # A run killed between writing a checkpoint and removing the oldest left one too many.
            for surplus in sorted(self._manager.all_steps())[:-keep]:
                self._manager.delete(surplus)

    def latest_step(self, before: int = sys.maxsize) -> int | None:
        """The newest complete checkpoint's step, of those before one; or None."""
        return max((step for step in self._manager.all_steps() if step < before), default=None)

    def save(self, step: int, state: Any, record: dict[str, Any]) -> None:
        """Starts writing a checkpoint; arrays are copied to the host before this returns.

        `record` must be JSON. A checkpoint of the same step that is there already stays as it is.

        Raises:
            UserError: this or an earlier checkpoint could not be written.
        """
        if step in self._manager.all_steps():
            return
        arrays = {name: np.asarray(value) for name, value in jax.device_get(flatten(state)).items()}
        described = {name: _describe(value) for name, value in arrays.items()}
        record = {"format_version": FORMAT_VERSION, **record, "arrays": described}
        _hide_late_results()
        signed = ocp.args.JsonSave(record | {"sha256": _digest_of_json(record)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), record=signed)
        with self._write_errors():
            # Else Orbax silently saves nothing beside a later step.
            self._manager.save(step, args=args, force=True)

    def record(self, step: int) -> dict[str, Any]:
        """The JSON record of a checkpoint.

        Raises:
            DamagedCheckpoint: it cannot be read, or is not what was written.
            UserError: the checkpoint is of a newer format.
        """
        try:
            args = ocp.args.Composite(record=ocp.args.JsonRestore())
            record = dict(self._manager.restore(step, args=args).record)
            version = int(record["format_version"])
        except Exception as error:  # Damaged files fail in Orbax in any way.
            raise self._damaged(step, f"its record cannot be read: {error!r}") from error
        digest = record.pop("sha256", None)
        if version != FORMAT_VERSION:
            do = "Update sapl_jax" if version > FORMAT_VERSION else "Use the version that wrote it"
            raise UserError(
                f"{self.folder / str(step)} has checkpoint format {version}; this version of "
                f"sapl_jax reads format {FORMAT_VERSION}. {do} to open it."
            )
        if digest != _digest_of_json(record):
            raise self._damaged(step, "its record is not the one that was written")
        return record

    def restore(self, step: int, template: T) -> T:
        """The state of a checkpoint in the form of `template`, as NumPy arrays on the host.

        `template`: pytree of arrays or `jax.ShapeDtypeStruct` with the expected shapes and types.

        Raises:
            DamagedCheckpoint: files are missing or hold other bytes than were written.
            UserError: names, shapes or dtypes differ; all differences are listed. (Orbax itself
                would cast types silently.)
        """
        stored, expected = self.record(step)["arrays"], flatten(template)
        if problems := _differences(expected, stored):
            what = f"{self.folder / str(step)} does not fit this configuration:"
            raise UserError("\n  ".join([what, *problems]))
        abstract = {name: np.empty(v.shape, v.dtype) for name, v in expected.items()}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        _hide_late_results()
        try:
            restored = self._manager.restore(step, args=args).state
        except Exception as error:
            raise self._damaged(step, f"its state cannot be read: {error!r}") from error
        for name, description in stored.items():
            if _describe(np.asarray(restored[name])) != description:
                raise self._damaged(step, f"{name} holds other numbers than were written")
        return jax.tree.unflatten(jax.tree.structure(template), [restored[k] for k in expected])

    def restore_newest(self, template: T) -> Restored | None:
        """The newest checkpoint that is whole, or None where there is none at all.

        A damaged one is moved to the folder `damaged` beside this one, with a warning.

        Raises:
            DamagedCheckpoint: all of them are.
            UserError: as `restore`.
        """
        reasons = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return Restored(step, self.restore(step, template), self.record(step))
            except DamagedCheckpoint as error:
                reasons.append(str(error))
                moved = self._set_aside(step)
                log.warning("%s\nIt was moved to %s; trying the one before it.", error, moved)
        if reasons:
            raise DamagedCheckpoint(
                "No checkpoint is left to continue from:\n  " + "\n  ".join(reasons) + "\n"
                "Run the same command again to start from the first step, or use a new --workdir."
            )
        return None

    def wait(self) -> None:
        """Blocks until what was started is on disk; UserError where it could not be written."""
        with self._write_errors():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """UserError where a write in the background has failed; does not block."""
        with self._write_errors():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        with self._write_errors():
            self._manager.close()

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        where = self.folder / str(step)
        return DamagedCheckpoint(f"The checkpoint {where} is damaged: {_short(reason)}.")

    def _set_aside(self, step: int) -> Path:
        aside = self.folder.parent / "damaged" / f"{self.folder.name}-{step}"
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        (self.folder / str(step)).rename(aside)
        self._manager.reload()
        return aside

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turns what a failed write raises, here or from the background, into a UserError."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"A checkpoint could not be written to {self.folder}: {_short(str(error))}. What "
                "was saved before is kept: free space or repair the disk and run the same command "
                "again."
            ) from error


@functools.cache  # Once in a process: after a failure others come late, at any time.
def _hide_late_results() -> None:
    """Keeps the terminal readable where a checkpoint cannot be written or read.

    Of arrays that are written or read side by side the first failure is raised and closes the event
    loop; the others then cannot report to it, and Python would print a traceback for each.
    """
    before = sys.unraisablehook

    def show(late: "sys.UnraisableHookArgs") -> None:
        if str(late.exc_value) != "Event loop is closed":
            before(late)

    sys.unraisablehook = show


def _short(reason: str) -> str:
    """The two ends of a long message: what failed and why."""
    line = reason.strip().split("\n")[0].split(" [tensorstore_spec=")[0].rstrip(".")
    return line if len(line) < 260 else f"{line[:120]} ... {line[-120:]}"


def _describe(array: np.ndarray) -> dict[str, Any]:
    content = np.ascontiguousarray(array).data if array.size else b""
    return {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": sha256_of(content)}


def _digest_of_json(record: dict[str, Any]) -> str:
    return sha256_of(json.dumps(record, sort_keys=True).encode())


def _differences(expected: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What keeps a stored state from fitting, one line each."""
    lines = [f"missing: {name}" for name in expected if name not in stored]
    lines += [f"unexpected: {name}" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        want, have = expected[name], stored[name]
        found = f"{have['dtype']}{have['shape']}"
        wanted = f"{np.dtype(want.dtype).name}{list(want.shape)}"
        if found != wanted:
            lines.append(f"{name}: expected {wanted}, found {found}")
    return sorted(lines)
