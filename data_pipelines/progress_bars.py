"""The progress bar of the commands: drawn on a terminal, a line now and then in a log."""

import sys
import time
from contextlib import suppress
from typing import Any

from tqdm import tqdm

EVERY_S = 30.0  # between the lines of a log
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressBar(tqdm):
    """tqdm's, same arguments. Where stderr is no terminal, no carriage return is ever written."""

    def __init__(self, *arguments: Any, **options: Any):
        self._in_lines = not sys.stderr.isatty()
        self._last = time.monotonic()
        if self._in_lines:
            options |= {"bar_format": _LINE, "mininterval": EVERY_S, "miniters": 1}
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar; in a log, a line of it at most every EVERY_S seconds."""
        if not self._in_lines:
            return super().display(msg, pos)
        if time.monotonic() - self._last >= EVERY_S:
            self._write_line()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Makes room for a message; in a log there is nothing in its way."""
        if not self._in_lines:
            super().clear(nolock)

    def close(self) -> None:
        """Leaves the bar as it is, or its last line."""
        if self._in_lines and not self.disable:
            if self.leave:
                self._write_line()
            self.sp = None  # tqdm then draws nothing more.
        super().close()

    def _write_line(self) -> None:
        self._last = time.monotonic()
        with suppress(OSError):  # What reads it may have ended, as `tee` does at Ctrl-C.
            self.fp.write(f"{self}\n")
            self.fp.flush()
