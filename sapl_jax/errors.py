"""The one exception for a user's mistakes, and how every command shows it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend.

    The message says what was found, what was expected and what to do. The commands print it
    without a traceback and exit with status 2.
    """


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a command's `main`, turns a `UserError` into one message, and exits the process.

    Exit status: what `main` returns (None counts as 0), 2 for a `UserError`, 130 for Ctrl-C.
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
