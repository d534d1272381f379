"""The checkpoints of a training run: the last ones, to continue from, and the best."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from sapl_jax.checkpoints import CheckpointFolder, DamagedCheckpoint, check_clip
from sapl_jax.errors import UserError
from sapl_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """Where a run begins."""

    state: TrainState  # NumPy arrays on the host; the one given where there is no checkpoint
    step: int = 0  # steps done
    validation_due: bool = False  # the run was stopped before the validation of this step
    best_auc: float = -1.0  # validation I-AUC of the best checkpoint, -1 where there is none


class RunCheckpoints:
    """`checkpoints/last` (the newest two) and `checkpoints/best` (one) of a work directory.

    Only the first process of a run opens the folder. What it restores is sent to the others, so
    they need no shared file system, and all continue from the same numbers.
    """

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
        start = Start(jax.device_get(fresh))
        if self._series:
            if last := self._series["last"].restore_newest(fresh):
                check_clip(last.record["clip"], self._clip)
                start = Start(last.state, last.step, last.record["validation_due"])
            try:
                if best := self._series["best"].restore_newest(fresh):
                    start = start._replace(best_auc=best.record["i_auc"])
            except DamagedCheckpoint:
                log.warning("The best checkpoint is lost; the next validation chooses a new one.")
        numbers = np.int32(start.step), start.validation_due, np.float64(start.best_auc)
        state, *rest = multihost_utils.broadcast_one_to_all((start.state, *numbers))
        return Start(jax.device_get(state), *(value.item() for value in rest))

    def save(self, series: str, step: int, state: TrainState, **record: Any) -> None:
        """Starts writing the state to "last", to continue from, or to "best".

        Their records hold `validation_due`, and `i_auc`, that of the validation.
        """
        if self._series:
            self._series[series].save(step, state, {"clip": self._clip, **record})

    def latest_step(self, before: int) -> int | None:
        """The newest step of either series below `before`; None: there is none, or elsewhere."""
        return max((s.latest_step(before) or 0 for s in self._series.values()), default=0) or None

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
