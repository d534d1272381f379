"""Trains on pictures in memory in a process of its own, so that it can be killed.

python -m tests.training.run_in_memory CONFIG_FOLDER WORKDIR [--kills N --seed S]

With --kills, forks a run that nothing disturbs (in WORKDIR.whole), then one that is killed with
SIGKILL at a random moment and forked again, N times, and then left to finish. Forking leaves out
the seconds that imports take. Prints what happened.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np

from sapl_jax import devices, processes
from sapl_jax.clip.config import read_config as read_clip_config
from sapl_jax.errors import run_main
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.loop import train
from sapl_jax.workdir import open_workdir, read_config
from tests.training.memory_data import MemoryData


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """For a process that runs this file: CPU devices, and the suite's compilation cache."""
    return (
        os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        | more
    )


def command(*arguments: object) -> list[str]:
    """The command line that runs this file."""
    return [sys.executable, "-m", "tests.training.run_in_memory", *map(str, arguments)]


class Share(MemoryData):
    """This process's slice of every global batch."""

    def __init__(self, config):
        super().__init__(config.train.batch_size)

    def _share(self, batch):
        each = self.batch_size // jax.process_count()
        first = jax.process_index() * each
        return {k: v[first : first + each] for k, v in batch.items()}

    def train_batches(self, start_step):
        yield from map(self._share, super().train_batches(start_step))

    def val_batches(self):
        """Pictures that cannot be told apart, so that the best checkpoint is not the first one."""
        for seed in range(1000, 1004):
            batch = self._batch(seed)
            noise = np.random.default_rng(seed).integers(0, 256, batch["image"].shape, np.uint8)
            weight = np.ones(len(noise), np.float32)
            yield self._share(batch | {"image": noise, "weight": weight})


def run(config_folder: Path, workdir: Path) -> int | None:
    """One run to its end, put together as in sapl_jax.train; its exit status."""
    config = read_config(config_folder)
    processes.start_runtime()
    first = jax.process_index() == 0
    entered = open_workdir(workdir, config) if first else nullcontext()
    with processes.leave_on_error(), entered:
        model = build_sapl(config, devices.compute_dtype(config.train.dtype))
        signum = train(config, workdir, model, Share(config))
    return None if signum is None else 128 + signum


def last_logged_step(workdir: Path) -> int:
    """Step of the last whole line of metrics.jsonl, 0 where there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def unfinished(workdir: Path) -> list[Path]:
    """Checkpoints that are being written."""
    return list((workdir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*"))


def wait_for_the_moment(kind: str, workdir: Path, rng: random.Random, child: int) -> None:
    """Returns at a random moment: any, after some steps, or while a checkpoint is written."""
    before, steps = last_logged_step(workdir), rng.randint(1, 3)
    if kind == "any moment":
        time.sleep(rng.uniform(0, 2))
        return
    for _ in range(60_000):
        if kind == "after some steps" and last_logged_step(workdir) >= before + steps:
            break
        if kind == "in a checkpoint" and unfinished(workdir) and last_logged_step(workdir) > before:
            break
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit("the run ended before it could be killed; give it more steps")
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))


def kill_many(config_folder: Path, workdir: Path, kills: int, seed: int) -> None:
    """Kills a run `kills` times and lets it finish; prints a JSON line of what was hit."""
    # What a run imports late is imported once, before the forks.
    read_clip_config(Path(read_config(config_folder).clip.pretrained) / "config.json")
    rng = random.Random(seed)
    kinds = ["any moment", "after some steps", "in a checkpoint"]
    hit: Counter[str] = Counter()
    wait(fork(config_folder, workdir.with_name(workdir.name + ".whole")))
    for n in range(kills):
        child = fork(config_folder, workdir)
        wait_for_the_moment(kinds[n % 3], workdir, rng, child)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        hit["kills"] += 1
        hit["inside a checkpoint write"] += bool(unfinished(workdir))
        hit[f"reached step {last_logged_step(workdir)}"] += 1
    wait(fork(config_folder, workdir))
    print(json.dumps(hit), flush=True)


def fork(config_folder: Path, workdir: Path) -> int:
    """A run in a child process; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        status = run(config_folder, workdir)
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status or 0)


def wait(child: int) -> None:
    """Waits for a run that must succeed."""
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("a run failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config_folder", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kills:
        kill_many(args.config_folder, args.workdir, args.kills, args.seed)
    else:
        run_main(lambda: run(args.config_folder, args.workdir))
