"""Trains on pictures in memory in a process of its own, so that it can be killed.

python -m tests.training.run_in_memory CONFIG_FOLDER WORKDIR [--kills N --seed S]

With --kills, forks a run, kills it with SIGKILL at a random moment, forks it again, N times, and
then lets it finish. Forking leaves out the seconds that imports take. Prints what happened.
"""

import argparse
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from sapl_jax.errors import run_main
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training import devices
from sapl_jax.training.loop import train
from sapl_jax.training.workdir import open_workdir, read_config
from tests.training.memory_data import MemoryData


class Share(MemoryData):
    """This process's slice of every global batch."""

    def __init__(self, config):
        super().__init__(config.train.batch_size)

    def _batch(self, seed):
        each = self.batch_size // jax.process_count()
        first = jax.process_index() * each
        return {k: v[first : first + each] for k, v in super()._batch(seed).items()}

    def val_batches(self):
        """Pictures that cannot be told apart, so that the best checkpoint is not the first one."""
        for seed in range(1000, 1004):
            batch = self._batch(seed)
            noise = np.random.default_rng(seed).integers(0, 256, batch["image"].shape, np.uint8)
            weight = np.ones(len(batch["label"]), np.float32)
            yield batch | {"image": noise, "weight": weight}


def run(config_folder: Path, workdir: Path) -> int | None:
    """One run to its end; the exit status of sapl_jax.train."""
    config = read_config(config_folder)
    devices.start_runtime()
    with open_workdir(workdir, config, write=jax.process_index() == 0):
        model = build_sapl(config, devices.compute_dtype(config.train.dtype))
        try:
            signum = train(config, workdir, model, Share(config))
        except jax.errors.JaxRuntimeError as error:
            raise devices.lost_process(error) from error
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
    before, steps = last_logged_step(workdir), rng.randint(1, 4)
    if kind == "any moment":
        time.sleep(rng.uniform(0, 3))
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
    rng = random.Random(seed)
    kinds = ["any moment", "after some steps", "in a checkpoint"]
    hit: Counter[str] = Counter()
    for n in range(kills + 1):
        child = os.fork()
        if not child:
            try:
                status = run(config_folder, workdir)
            except BaseException as error:
                print(f"the run failed: {error!r}", flush=True)
                status = 1
            os._exit(status or 0)
        if n == kills:
            break
        wait_for_the_moment(kinds[n % 3], workdir, rng, child)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        hit["kills"] += 1
        hit["inside a checkpoint write"] += bool(unfinished(workdir))
        hit[f"reached step {last_logged_step(workdir)}"] += 1
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"status": status, **hit}), flush=True)


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
