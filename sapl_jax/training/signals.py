"""Stopping on request: SIGTERM (preemption) and Ctrl-C end a run at the next step boundary."""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While entered, remembers SIGTERM or SIGINT instead of dying from it.

    `signum` is the signal that came, or None. A second one of any kind interrupts at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
