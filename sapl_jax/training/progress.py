"""What the loop shows while it runs: a progress bar, and rates measured between log lines."""

import time
from collections.abc import Iterator
from typing import Any

from data_pipelines.progress_bars import ProgressBar


class Progress:
    """Progress bar with loss and images per second; measures the share of time without data."""

    def __init__(self, start: int, total: int, batch_size: int, enabled: bool):
        """`batch_size` is global; `enabled` is false on all but the first process."""
        self._bar = ProgressBar(
            total=total,
            initial=start,
            desc="train",
            unit="step",
            disable=not enabled,
            dynamic_ncols=True,
        )
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0
        self._waited = 0.0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time each one was waited for is counted."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def step(self, loss: float) -> None:
        """One more step is done."""
        self._steps += 1
        rates = self._rates()
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rates['images_per_s']:.1f} images/s", False)
        self._bar.update()

    def _rates(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        return {
            "images_per_s": self._steps * self._batch_size / elapsed,
            "input_wait": min(self._waited / elapsed, 1.0),
        }

    def take_rates(self) -> dict[str, float]:
        """Images per second and share of time waiting for data since the last call."""
        rates = self._rates()
        self._reset()
        return rates

    def restart_clock(self) -> None:
        """Leaves out what just happened (a validation, a checkpoint) from the rates."""
        self._reset()

    def message(self, text: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(text)

    def close(self) -> None:
        """Leaves the bar on the screen as it is."""
        self._bar.close()
