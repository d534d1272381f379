"""The one exception for a user's mistakes, and how every command speaks to its user."""

import argparse
import gc
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FLAG = re.compile(r"^--(?![^=]*config\.)[^=]*")  # Its name, with underscores or hyphens.
_HOME = re.compile(r"(?s)^(--[^=]*=|)(~.*)")  # Behind "=" shells leave ~ as it is.
_NEW_OBJECTS = 50_000  # between two collections of the young ones


class UserError(Exception):
    """A mistake the user can mend.

    The message says what was found, what was expected and what to do. The commands print it
    without a traceback and exit with status 2.
    """


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a command's `main`, turns a `UserError` into one message, and exits the process.

    The project's own log is shown from INFO on, that of its libraries from WARNING on.

    Exit status: `main`'s (None is 0), 2 for a `UserError`, 130 for Ctrl-C, 141 for a broken pipe.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    for name in ("sapl_jax", "data_pipelines", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    # TFDS and Orbax speak at every step through this logger; what goes wrong, they raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Imports and tracing make many objects and next to no garbage; at 700 new ones a collection, a
    # tenth of a short command's time went into looking for it.
    gc.set_threshold(_NEW_OBJECTS)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names of files may hold what no encoding has.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except BrokenPipeError:
        status = 141
    except (UserError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        status = 130
    finally:
        try:
            print(end="", flush=True)  # Nothing where there is no stdout.
        except BrokenPipeError:  # What reads the output has ended, as `head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 141
    gc.freeze()  # The last collection, .3 s with JAX loaded, has nothing to look at then.
    sys.exit(status or 0)


def printable(text: object) -> str:
    """Text without what a hostile file name could do to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class Parser(argparse.ArgumentParser):
    """argparse's parser: hyphens in flags, or underscores in their place; ~ is the home."""

    def __init__(self, command: str, doc: str | None, **options: Any):
        """`doc`: the module's docstring, shown as it is written."""
        show = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=command, description=doc, formatter_class=show, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which all its other ways to parse come through."""
        given = sys.argv[1:] if args is None else args
        hyphened = [_FLAG.sub(lambda found: found[0].replace("_", "-"), text) for text in given]
        given = [_HOME.sub(lambda at: at[1] + os.path.expanduser(at[2]), text) for text in hyphened]
        return super().parse_known_args(given, namespace)


def check_checkpoint(folder: Path | None) -> None:
    """UserError where the model of --checkpoint cannot be there: it costs no import to see."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give a training run's folder or an export.")
    if folder and not any((folder / name).exists() for name in ("config.json", "export.json")):
        raise UserError(
            f"{folder} holds no config.json or export.json: it is not the work directory of a "
            "training run, nor an export."
        )


def check_numbers(arguments: argparse.Namespace, **limits: tuple[float, float]) -> None:
    """UserError for a flag that is given and lies outside its (lowest, highest)."""
    for name, (low, high) in limits.items():
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:  # Written so that NaN is refused.
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected {low} to {high}")
