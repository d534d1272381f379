"""Where a run's numbers go: `metrics.jsonl` and TensorBoard files in the work directory."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar

from sapl_jax.errors import UserError
from sapl_jax.files import write_atomically


class MetricWriter:
    """Appends {"step": ..., name: value, ...} lines and the same scalars for TensorBoard.

    Everything is written before `write` returns: TensorBoard's usual background writer would hang
    the run when the disk is full.
    """

    def __init__(
        self, workdir: Path, start_step: int, *, validation_due: bool = False, enabled: bool = True
    ):
        """Opens the files; what an interrupted run wrote after `start_step` is dropped.

        `validation_due`: the validation of `start_step` will be repeated. `enabled` is false on all
        but the first process of a run of several.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._path = workdir / "metrics.jsonl"
        board = workdir / "tensorboard"
        with self._write_errors():
            if self._path.exists():
                _keep_until(self._path, start_step, validation_due)
            self._lines = open(self._path, "a", buffering=1)  # noqa: SIM115 (until `close`)
            board.mkdir(exist_ok=True)
            self._board = EventsWriter(str(board / "events"), f".{time.time_ns()}")
            # TensorBoard hides what earlier files hold from this step on.
            start = SessionLog(status=SessionLog.START)
            self._event(step=start_step + 1, session_log=start)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records the values of a step (the number of steps done); UserError on a full disk.

        A value that is not finite is null in the lines, as JSON has no NaN, and not on the board.
        """
        if not self._enabled:
            return
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        row = {"step": step, **dict.fromkeys(values), **finite}
        with self._write_errors():
            self._lines.write(json.dumps(row) + "\n")
            for name, value in finite.items():
                self._event(step=step, summary=scalar(name, value))
            self._board.flush()

    def write_images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Puts pictures, uint8 RGB [H,W,3], on the board by name; UserError on a full disk."""
        if not self._enabled:
            return
        with self._write_errors():
            for name, pixels in pictures.items():
                self._event(step=step, summary=image(name, pixels, dataformats="HWC"))
            self._board.flush()

    def close(self) -> None:
        """Closes both."""
        if self._enabled:
            with self._write_errors():
                self._lines.close()
                self._board.close()

    def _event(self, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), **content))

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path} or the TensorBoard files beside it cannot be written: "
                f"{error.strerror or error}. The checkpoints are kept: free space and run the same "
                "command again."
            ) from error


def _keep_until(path: Path, start_step: int, validation_due: bool) -> None:
    """Drops what a run wrote after the checkpoint it continues from, a torn last line included."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            step = row["step"]
        except (ValueError, KeyError, TypeError):
            continue  # The process died while it wrote this line.
        again = validation_due and step == start_step and "val_i_auc" in row
        if step <= start_step and not again:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))
