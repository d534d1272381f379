"""What a run left behind, in a form in which two runs can be compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sapl_jax.checkpoints import CheckpointFolder


def metric_lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the rates, which are never the same twice."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in ("images_per_s", "input_wait")}
        for row in rows
    ]


def losses(workdir: Path) -> np.ndarray:
    """The loss of every logged step."""
    return np.array([row["loss"] for row in metric_lines(workdir) if "loss" in row])


def checkpoint_digests(workdir: Path) -> dict[str, Any]:
    """Every checkpoint's arrays by SHA-256, under its series and step."""
    found = {}
    for series in ("last", "best"):
        folder = CheckpointFolder(workdir / "checkpoints" / series, read_only=True)
        for step in (int(path.name) for path in folder.folder.iterdir() if path.name.isdigit()):
            found[f"{series}/{step}"] = folder.record(step)["arrays"]
        folder.close()
    return found
