"""Checkpoints of a run; the only file that imports Orbax.

A work directory holds `checkpoints/last` (the newest two, to continue from) and `checkpoints/best`
(the one of the highest validation I-AUC). Each checkpoint has the training state as a flat
{name: array} and a small JSON record. Frozen CLIP weights are not in it; their source and sha256
are in the record.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from sapl_jax.errors import UserError

FORMAT_VERSION = 1
T = TypeVar("T")


def flatten(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a pytree by their path, such as "params/prompts/context"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class CheckpointFolder:
    """One series of checkpoints in a folder, written in the background, oldest removed."""

    def __init__(self, folder: Path, keep: int | None):
        """Opens or creates the folder; at most `keep` checkpoints stay (None: all)."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, record: dict[str, Any]) -> None:
        """Starts writing a checkpoint; arrays are copied to the host before this returns.

        `record` must be JSON. A checkpoint of the same step that is there already stays as it is.
        """
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(flatten(state)),
                record=ocp.args.JsonSave({"format_version": FORMAT_VERSION, **record}),
            ),
        )

    def record(self, step: int) -> dict[str, Any]:
        """The JSON record of a checkpoint; UserError for one of a newer format."""
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = dict(self._manager.restore(step, args=args).record)
        if record["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{self.folder / str(step)} has checkpoint format {record['format_version']}; this "
                f"version reads up to {FORMAT_VERSION}. Update sapl_jax to open it."
            )
        return record

    def restore(self, step: int, template: T, mesh: jax.sharding.Mesh | None = None) -> T:
        """The state of a checkpoint in the form of `template`, replicated over `mesh`.

        Args:
          step: a step that is there.
          template: pytree of arrays or `jax.ShapeDtypeStruct` with the expected shapes and types.
          mesh: devices to place the arrays on; None for NumPy arrays on the host.

        Raises:
          UserError: names, shapes or dtypes differ; all differences are listed. (Orbax itself
            would cast types silently.)
        """
        expected = flatten(template)
        stored = self._manager.item_metadata(step)["state"].tree
        problems = _differences(expected, stored)
        if problems:
            raise UserError(
                f"{self.folder / str(step)} does not fit this configuration:\n  "
                + "\n  ".join(problems)
            )
        if mesh is None:
            abstract: Any = {k: np.empty(v.shape, v.dtype) for k, v in expected.items()}
        else:
            sharding = NamedSharding(mesh, PartitionSpec())
            abstract = {
                k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding)
                for k, v in expected.items()
            }
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        ).state
        return jax.tree.unflatten(jax.tree.structure(template), [restored[k] for k in expected])

    def wait(self) -> None:
        """Blocks until what was started is on disk; errors of the background write come up here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        self._manager.close()


def _differences(expected: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What keeps a stored state from fitting, one line each."""
    lines = [f"missing: {name}" for name in expected if name not in stored]
    lines += [f"unexpected: {name}" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        want, have = expected[name], stored[name]
        if tuple(want.shape) != tuple(have.shape) or np.dtype(want.dtype) != np.dtype(have.dtype):
            lines.append(
                f"{name}: expected {np.dtype(want.dtype)}{list(want.shape)}, "
                f"found {np.dtype(have.dtype)}{list(have.shape)}"
            )
    return sorted(lines)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is either the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
