"""The one exception for a user's mistakes, and how every command speaks to its user."""

import logging
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend.

    The message says what was found, what was expected and what to do. The commands print it
    without a traceback and exit with status 2.
    """


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a command's `main`, turns a `UserError` into one message, and exits the process.

    The project's own log is shown from INFO on, that of its libraries from WARNING on.

    Exit status: what `main` returns (None counts as 0), 2 for a `UserError`, 130 for Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    for name in ("sapl_jax", "data_pipelines", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    # TFDS and Orbax speak at every step through this logger; what goes wrong, they raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
