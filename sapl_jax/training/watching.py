"""What shows a run from inside: pictures with their maps at each validation, and a profile."""

from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

_OF_EACH_CLASS = 2
_SIDE = 224  # pixels of one of the three squares


def panels(batch: dict[str, np.ndarray], heat: np.ndarray) -> dict[str, np.ndarray]:
    """The first pictures of each class: picture, soft edge map and heat map side by side.

    Args:
        batch: image [B,C,C,3] uint8, edge_map and valid [B,g,g], label and weight [B].
        heat: [B,g,g] float in [0,1].

    Returns:
        uint8 RGB [_SIDE, 3 * _SIDE, 3] by a name such as "validation/tampered_1"; maps are grey,
        patch by patch as the model sees them.
    """
    found = {}
    for label, name in enumerate(("authentic", "tampered")):
        chosen = np.flatnonzero((batch["label"] == label) & (batch["weight"] > 0))
        for number, n in enumerate(chosen[:_OF_EACH_CLASS], 1):
            size = (_SIDE, _SIDE)
            squares = [cv2.resize(batch["image"][n], size, interpolation=cv2.INTER_AREA)]
            for patches in (batch["edge_map"][n], np.where(batch["valid"][n], heat[n], 0)):
                grey = np.rint(255 * np.clip(patches, 0, 1)).astype(np.uint8)
                grey = cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST)
                squares.append(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
            found[f"validation/{name}_{number}"] = np.concatenate(squares, axis=1)
    return found


class Profiler:
    """Writes a trace of some steps for TensorBoard's or Perfetto's profiler."""

    def __init__(self, steps: str, folder: Path, *, enabled: bool = True):
        """`steps`: "10:15" is from when 10 steps are done until 15 are; "" is never."""
        first, _, last = steps.partition(":")
        self._first, self._last = (int(first), int(last)) if steps and enabled else (-1, -1)
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
