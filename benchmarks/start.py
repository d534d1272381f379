"""Times a start of training to the end of its first step, twice: cold, then with a warm cache.

python -m benchmarks.start --model vit-base-patch16 --size 224. The weights are read from a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from benchmarks.case import argument_parser, case_of


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
    from sapl_jax.devices import use_compilation_cache

    use_compilation_cache()
    case = dataclasses.replace(case_of(args), model=str(folder))
    with MostMemory() as memory:
        machine = OurStep(case, warm_up=False, overlap=True)
    done("weights and program")
    machine.step(machine.batch(0))
    done("first step")
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    line = {"chip": machine.chip, "load_peak_bytes": memory.bytes, "weight_bytes": weights}
    print(json.dumps({"seconds": seconds, **line}))


class MostMemory:
    """Context: the most memory of its own this process had inside, over that at the start.

    Sampled every few milliseconds; pages of files that are only mapped do not count (Linux).
    """

    bytes = 0

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(_own_memory(),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self, before: int) -> None:
        while not self._end.wait(0.005):
            self.bytes = max(self.bytes, _own_memory() - before)


def _own_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's own memory")


def main() -> None:
    """Flags to one JSON line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        child(args, args.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clip"
        save = (
            "import sys; from sapl_jax.clip.loading import load_clip; "
            "from sapl_jax.clip.weights import save_clip; "
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
        "chip": starts[1]["chip"],
        "load_peak_bytes": starts[1]["load_peak_bytes"],
        "weight_bytes": starts[1]["weight_bytes"],
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
