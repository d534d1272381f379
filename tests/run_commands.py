"""Runs several commands, each in a fork of one process, so that imports are paid for once.

python -m tests.run_commands < commands.json

Reads [[module, argument, ...], ...] and prints what `python -m module arguments` ends with and
writes: [{"status": ..., "stdout": ..., "stderr": ...}, ...].
"""

import importlib
import json
import os
import sys
import tempfile

from sapl_jax.errors import run_main


def run(module_name: str, arguments: list[str]) -> dict[str, object]:
    """One command, from its arguments to its exit status."""
    module = importlib.import_module(module_name)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [module_name, *arguments]
            run_main(module.main)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return {"status": status, "stdout": texts[0], "stderr": texts[1]}


if __name__ == "__main__":
    results = [run(name, arguments) for name, *arguments in json.load(sys.stdin)]
    print(json.dumps(results))
