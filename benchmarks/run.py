"""Runs every benchmark and rewrites docs/performance.md: python -m benchmarks.run --help.

Our step and the peer's take turns, process by process, so that neither has the machine in a
better hour. The peer needs a Python of its own with torch, transformers, peft and numpy.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.tables import write_page
from data_pipelines.progress_bars import ProgressBar

ROOT = Path(__file__).parents[1]
Line = dict[str, Any]


def run_one(command: list[str], timeout: float) -> Line:
    """The JSON line of one benchmark, or a line that says why there is none."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # The peer's waiting threads should not count as work nor take a core from the others.
        "OMP_WAIT_POLICY": "passive",
    }
    what = " ".join(command[2:])
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"what": what, "failed": f"not done after {timeout:.0f} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"what": what, "failed": f"exit status {done.returncode}: {reason}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def commands(args: argparse.Namespace) -> list[list[str]]:
    """All benchmarks in their order."""
    ours = [sys.executable, "-m"]
    steps = []
    for batch in args.batch:
        shape = ["--batch", str(batch), "--dtype", args.dtype, "--steps", str(args.steps)]
        shape += ["--model", args.model, "--size", str(args.size)]
        shape += ["--remat", "blocks"] if args.remat else []
        sides = [[*ours, "benchmarks.train_step", *shape]]
        if args.peer_python:
            peer = [args.peer_python, "-m", "benchmarks.torch_peer", *shape]
            sides += [peer, [*peer, "--compile"]]
        steps += sides * args.rounds
    model = ["--model", args.model, "--size", str(args.size)]
    data = ["--root", args.root, "--dataset", args.dataset] if args.root else []
    return [
        *steps,
        [*ours, "benchmarks.inference", *model],
        [*ours, "benchmarks.pipeline", *data],
        [*ours, "benchmarks.start", *model],
    ]


def main() -> None:
    """Runs, prints the JSON lines, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="Python with torch, transformers, peft and numpy")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 1 2; on a GPU 12 32 64")
    parser.add_argument("--dtype", help="default: float32; on a GPU bfloat16")
    parser.add_argument("--model", default="vit-large-patch14-336")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--remat", action="store_true", help="gradient checkpointing on both sides")
    parser.add_argument("--steps", type=int, help="timed steps; default: 3, on a GPU 20")
    parser.add_argument("--rounds", type=int, default=2, help="times each side gets its turn")
    parser.add_argument("--root", help="data set for the input benchmark")
    parser.add_argument("--dataset", default="casia_v2", help="layout of --root")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds, each benchmark")
    parser.add_argument("--lines", type=Path, help="JSON lines of a run: only write the page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args()
    if not args.output.is_file():
        parser.error(f"--output {args.output}: no such page; its measured part is rewritten")
    if args.lines:
        lines = [json.loads(text) for text in args.lines.read_text().splitlines() if text.strip()]
    else:
        on_gpu = _has_gpu()
        args.batch = args.batch or ([12, 32, 64] if on_gpu else [1, 2])
        args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
        args.steps = args.steps or (20 if on_gpu else 3)
        lines = []
        for command in ProgressBar(commands(args), unit="run"):
            lines.append(run_one(command, args.timeout))
            ProgressBar.write(json.dumps(lines[-1]))
    write_page(args.output, lines)
    print(f"wrote {args.output}", file=sys.stderr)


def _has_gpu() -> bool:
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "gpu"


if __name__ == "__main__":
    main()
