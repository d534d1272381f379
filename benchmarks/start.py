"""Times a start of training to the end of its first step, twice: cold, then with a warm cache.

python -m benchmarks.start --model vit-base-patch16 --size 224. The weights are read from a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.case import argument_parser, case_of, peak_rss


def child(args: argparse.Namespace, folder: Path) -> None:
    """What `sapl_jax.train` does until the end of the first step, timed by phase."""
    seconds = {}
    since = float(os.environ["SAPL_BENCHMARK_STARTED"])

    def done(phase: str) -> None:
        nonlocal since
        seconds[phase], since = time.time() - since, time.time()

    import sapl_jax.train  # noqa: F401

    done("imports")
    import dataclasses

    from benchmarks.train_step import OurStep
    from sapl_jax.training.compilation import use_compilation_cache

    use_compilation_cache()
    case = dataclasses.replace(case_of(args), model=str(folder))
    machine = OurStep(case, warm_up=False)
    done("weights, trace, compile")
    seconds["of it trace, compile"] = machine.compile_s
    after_weights = peak_rss()
    machine.step(0)
    done("first step")
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": after_weights}))


def main() -> None:
    """Flags to one JSON line."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        child(args, args.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clip"
        save = (
            "import sys; from sapl_jax.clip.loading import load_clip; "
            "from sapl_jax.clip.saving import save_clip; "
            "save_clip(load_clip('random:' + sys.argv[1]), sys.argv[2])"
        )
        subprocess.run([sys.executable, "-c", save, args.model, str(folder)], check=True)
        starts = []
        for _ in range(2):
            environment = os.environ | {
                "JAX_COMPILATION_CACHE_DIR": str(Path(temporary) / "cache"),
                "SAPL_BENCHMARK_STARTED": str(time.time()),
            }
            command = [sys.executable, "-m", "benchmarks.start", *sys.argv[1:]]
            done = subprocess.run(
                [*command, "--folder", str(folder)],
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            starts.append(json.loads(done.stdout.splitlines()[-1]))
    line = {
        "what": "start",
        "model": args.model,
        "size": args.size,
        "batch": args.batch,
        "first": starts[0]["seconds"],
        "second": starts[1]["seconds"],
        "peak_memory_bytes": starts[1]["peak_memory_bytes"],
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
