"""What shows a run: a bar, `metrics.jsonl` and TensorBoard, pictures with their maps, a profile."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar

from data_pipelines.listing import LABEL_NAMES
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.files import write_atomically, writing

_OF_EACH_CLASS = 2
_SIDE = 224  # pixels of one of the three squares


class Progress:
    """Progress bar with loss and images per second; measures the share of time without data."""

    def __init__(self, start: int, total: int, batch_size: int, enabled: bool):
        """`batch_size` is global; `enabled` is false on all but the first process."""
        shown = {"desc": "train", "unit": "step", "dynamic_ncols": True, "disable": not enabled}
        self._bar = ProgressBar(total=total, initial=start, **shown)
        self._batch_size = batch_size
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves out what just happened (a validation, a checkpoint) from the rates."""
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time each one was waited for is counted."""
        start = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def step(self, loss: float) -> None:
        """One more step is done."""
        self._steps += 1
        rates = self._rates()
        text = f"loss {loss:.4f}, {rates['images_per_s']:.1f} images/s"
        self._bar.set_postfix_str(f"{text}, {rates['input_wait']:.0%} waiting for data", False)
        self._bar.update()

    def _rates(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        images_per_s = self._steps * self._batch_size / elapsed
        return {"images_per_s": images_per_s, "input_wait": min(self._waited / elapsed, 1.0)}

    def take_rates(self) -> dict[str, float]:
        """Images per second and share of time waiting for data since the last call."""
        rates = self._rates()
        self.restart_clock()
        return rates

    def message(self, text: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            with suppress(OSError):  # as in the bar's own lines
                self._bar.write(text)

    def close(self) -> None:
        """Leaves the bar on the screen as it is."""
        self._bar.close()


class MetricWriter:
    """Appends {"step": ..., name: value, ...} lines and the same scalars for TensorBoard.

    Everything is written before `write` returns, or is a UserError: TensorBoard's usual background
    writer would hang the run when the disk is full.
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
        self._path, board = workdir / "metrics.jsonl", workdir / "tensorboard"
        with self._write_errors():
            if self._path.exists():
                _keep_until(self._path, start_step, validation_due)
            self._lines = open(self._path, "a", buffering=1)  # noqa: SIM115 (until `close`)
            board.mkdir(exist_ok=True)
            self._board = EventsWriter(str(board / "events"), f".{time.time_ns()}")
            # TensorBoard hides what earlier files hold from this step on.
            self._event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(
        self, step: int, values: dict[str, float], pictures: dict[str, np.ndarray] | None = None
    ) -> None:
        """Records the values of a step (the number of steps done), and pictures on the board alone.

        A value that is not finite is null in the lines, as JSON has no NaN, and not on the board.
        Pictures are uint8 RGB [H,W,3] by name.
        """
        if not self._enabled:
            return
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        row = {"step": step, **dict.fromkeys(values), **finite}
        with self._write_errors():
            if values:
                self._lines.write(json.dumps(row) + "\n")
            for name, value in finite.items():
                self._event(step=step, summary=scalar(name, value))
            for name, pixels in (pictures or {}).items():
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

    def _write_errors(self) -> AbstractContextManager[None]:
        what = f"{self._path} or the TensorBoard files beside it"
        return writing(what, "What was saved before is kept: free space and run the command again.")


def _keep_until(path: Path, start_step: int, validation_due: bool) -> None:
    """Drops what a run wrote after the checkpoint it continues from, a torn last line included."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # The process died while it wrote this line.
        again = validation_due and row["step"] == start_step and "val_i_auc" in row
        if row["step"] <= start_step and not again:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def panels(batch: dict[str, np.ndarray], heat: np.ndarray) -> dict[str, np.ndarray]:
    """The first pictures of each class: picture, soft edge map and heat map side by side.

    uint8 RGB [_SIDE, 3 * _SIDE, 3] by a name such as "validation/tampered_1"; maps are grey, patch
    by patch as the model sees them. Of a batch (image [B,C,C,3] uint8, edge_map and valid [B,g,g],
    label and weight [B]) and its heat maps [B,g,g] in [0,1].
    """
    found = {}
    for label, name in enumerate(LABEL_NAMES):
        chosen = np.flatnonzero((batch["label"] == label) & (batch["weight"] > 0))
        for number, n in enumerate(chosen[:_OF_EACH_CLASS], 1):
            size = (_SIDE, _SIDE)
            squares = [cv2.resize(batch["image"][n], size, interpolation=cv2.INTER_AREA)]
            for patches in (batch["edge_map"][n], np.where(batch["valid"][n], heat[n], 0)):
                grey = np.rint(255 * np.nan_to_num(np.clip(patches, 0, 1))).astype(np.uint8)
                grey = cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST)
                squares.append(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
            found[f"validation/{name}_{number}"] = np.concatenate(squares, axis=1)
    return found


class Profiler:
    """Writes a trace of some steps for TensorBoard's or Perfetto's profiler."""

    def __init__(self, steps: str, folder: Path, *, enabled: bool = True):
        """`steps`: "10:15" is from when 10 steps are done until 15 are; "" is never."""
        self._first, self._last = map(int, steps.split(":")) if steps and enabled else (-1, -1)
        self._folder, self._running = folder, False

    def at(self, step: int, state: Any) -> None:
        """To be called before each step is dispatched, with the steps done and their state."""
        if step == self._first and not self._running:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._last:
            self.close(state)

    def close(self, state: Any = None) -> None:
        """Ends a trace that is being written, after the steps that it shows."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
