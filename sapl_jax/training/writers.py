"""Where a run's numbers go: `metrics.jsonl` and TensorBoard files in the work directory."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricWriter:
    """Appends {"step": ..., name: value, ...} lines and the same scalars for TensorBoard."""

    def __init__(self, workdir: Path, start_step: int, enabled: bool = True):
        """Opens the files; lines at or after `start_step` of an interrupted run are dropped.

        `enabled` is false on all but the first process of a multi-host run.
        """
        self._enabled = enabled
        if not enabled:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            _keep_steps_below(path, start_step)
        self._lines = path.open("a", buffering=1)  # A line is on disk as soon as it is written.
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records the values of a step (the number of steps done)."""
        if not self._enabled:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        if self._enabled:
            self._lines.close()
            self._board.close()


def _keep_steps_below(path: Path, start_step: int) -> None:
    """Drops what a run wrote after the checkpoint it continues from, a torn last line included."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= start_step:
                kept.append(line + "\n")
        except ValueError:
            continue  # The process died while it wrote this line.
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
