"""Stopping on request: SIGTERM (preemption) and Ctrl-C end a run at the next step boundary."""

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

# Clusters commonly grant 30 seconds between SIGTERM and SIGKILL.
GRACE_S = 25.0


class StopRequest:
    """While entered, remembers SIGTERM or SIGINT instead of dying from it.

    `signum` is the signal that came, or None. A second one of any kind interrupts at once.

    After SIGTERM the process is ended with status 143 when it has not left this context GRACE_S
    seconds later: a compilation or a very long step cannot be interrupted otherwise. That loses no
    more than SIGKILL would: the steps since the last checkpoint.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._left = threading.Event()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python runs handlers between bytecodes of the main thread only, which may be deep inside
        # XLA; the number of the signal is written to this socket at once.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._watch = threading.Thread(target=self._end_in_time, name="sigterm", daemon=True)
        self._watch.start()
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._left.set()
        self._writer.close()
        self._watch.join()
        self._reader.close()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

    def _end_in_time(self) -> None:
        while received := self._reader.recv(64):
            if signal.SIGTERM in received and not self._left.wait(GRACE_S):
                long = "a compilation, step, validation or checkpoint took longer than"
                what = f"{long} {GRACE_S:g} s"
                do = "run the same command to continue from the last checkpoint"
                print(f"stopped by SIGTERM: {what}; {do}", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGTERM)
