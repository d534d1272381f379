"""`sapl COMMAND`: the project's commands under one name, each the same as `python -m MODULE`."""

import runpy
import sys

from sapl_jax.command_line import COMMANDS
from sapl_jax.errors import UserError, run_main


def main() -> None:
    """Becomes the command named first; without one, or for --help, lists them."""
    name = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: sapl COMMAND [FLAGS]\n\ncommands: {', '.join(COMMANDS)}")
        print("`sapl COMMAND --help` lists the flags of a command.")
    elif name == "--version":
        import sapl_jax

        print(sapl_jax.__version__)
    elif name not in COMMANDS:
        raise UserError(f"there is no command {sys.argv[1]!r}; expected {', '.join(COMMANDS)}")
    else:
        del sys.argv[1]
        runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


def run() -> None:
    """The program `sapl`."""
    run_main(main)


if __name__ == "__main__":
    run()
