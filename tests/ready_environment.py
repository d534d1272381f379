"""An environment that `launch.sh` takes for set up, whose Python is a shell script."""

import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch.sh"


def make(folder: Path, python: str) -> Path:
    """The environment for SAPL_VENV."""
    locked = b"".join(
        (LAUNCH.parent / n).read_bytes() for n in ("requirements.lock", "pyproject.toml")
    )
    stamp = subprocess.run("cksum", input=locked, capture_output=True, check=True).stdout.decode()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "bin" / "python").chmod(0o755)
    # With an accelerator's JAX, so that this machine's is not asked for.
    (folder / "ready").write_text(f"{stamp.strip()} cuda12\n")
    return folder
