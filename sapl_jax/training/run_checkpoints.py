"""The checkpoints of a run, over all its processes: `last` to continue from, and `best`.

Only the first process opens the work directory. What it restores is sent to the others, so they
need no shared file system, and all continue from the same numbers.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from sapl_jax.checkpoints import CheckpointFolder, DamagedCheckpoint, Restored
from sapl_jax.errors import UserError
from sapl_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
        state: NumPy arrays on the host; the one given where there is no checkpoint.
        step: steps done; 0 for a new run.
        validation_due: the run was stopped before the validation that belongs to this step.
        best_auc: validation I-AUC of the best checkpoint, -1 where there is none.
    """

    state: TrainState
    step: int
    validation_due: bool
    best_auc: float


class RunCheckpoints:
    """`checkpoints/last` (the newest two) and `checkpoints/best` (one) of a work directory."""

    def __init__(self, workdir: Path, clip_source: dict[str, Any]):
        """Opens both series; `clip_source` says where the frozen weights come from."""
        self._clip = clip_source
        self._series: dict[str, CheckpointFolder] = {}
        if jax.process_index() == 0:
            for name, keep in (("last", 2), ("best", 1)):
                self._series[name] = CheckpointFolder(workdir / "checkpoints" / name, keep=keep)

    def restore(self, fresh: TrainState) -> Start:
        """The newest whole checkpoint on every process, or `fresh` where there is none.

        Raises:
            UserError: the checkpoint does not fit `fresh`, was trained on other CLIP weights, is of
                another format version, or all are damaged.
        """
        start = Start(jax.device_get(fresh), 0, False, -1.0)
        if self._series:
            last = self._series["last"].restore_newest(fresh)
            try:
                best = self._series["best"].restore_newest(fresh)
            except DamagedCheckpoint:
                best = None
                log.warning("The best checkpoint is lost; the next validation chooses a new one.")
            if last is not None:
                self._check_clip(last)
                start = Start(last.state, last.step, last.record["validation_due"], -1.0)
            if best is not None:
                start = start._replace(best_auc=best.record["i_auc"])
        if jax.process_count() > 1:
            numbers = np.int32(start.step), start.validation_due, np.float64(start.best_auc)
            state, *rest = multihost_utils.broadcast_one_to_all((start.state, *numbers))
            step, due, best_auc = (value.item() for value in rest)
            start = Start(jax.device_get(state), step, due, best_auc)
        return start

    def save_last(self, step: int, state: TrainState, *, validation_due: bool) -> None:
        """Starts writing the state to continue from."""
        if self._series:
            record = {"clip": self._clip, "validation_due": validation_due}
            self._series["last"].save(step, state, record)

    def save_best(self, step: int, state: TrainState, i_auc: float) -> None:
        """Starts writing the state of the highest validation I-AUC so far."""
        if self._series:
            self._series["best"].save(step, state, {"clip": self._clip, "i_auc": i_auc})

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint in `last`; None where there is none, or elsewhere."""
        return self._series["last"].latest_step() if self._series else None

    def check(self) -> None:
        """UserError where a write in the background has failed; does not block."""
        for series in self._series.values():
            series.check()

    def wait(self) -> None:
        """Blocks until everything is on disk; UserError where it could not be written."""
        for series in self._series.values():
            series.wait()

    def close(self) -> None:
        """Lets go of the folders. Call `wait` first: errors of unfinished writes are not raised."""
        for series in self._series.values():
            try:
                series.close()
            except UserError as error:
                log.warning("%s", error)

    def _check_clip(self, restored: Restored) -> None:
        before, now = restored.record["clip"], self._clip
        if before["sha256"] != now["sha256"]:
            raise UserError(
                "The run was started on other CLIP weights:\n  "
                f"then: {json.dumps(before)}\n  now:  {json.dumps(now)}\n"
                "Restore those weights, or use a new --workdir."
            )
