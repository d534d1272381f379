"""Devices of a run: which ones, the compute type, and how arrays get onto them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sapl_jax.errors import UserError
from sapl_jax.training.step import AXIS


def start_runtime() -> None:
    """Joins the other processes of a multi-host run and turns on the compilation cache.

    Several processes: `launch.sh` sets SAPL_COORDINATOR, SAPL_PROCESS_COUNT and SAPL_PROCESS_ID; on
    TPU slices and under SLURM JAX finds them itself when SAPL_COORDINATOR is "auto".
    The cache lives in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/sapl_jax/xla.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sapl_jax" / "xla"))
    coordinator = os.environ.get("SAPL_COORDINATOR", "")
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=int(os.environ["SAPL_PROCESS_COUNT"]),
            process_id=int(os.environ["SAPL_PROCESS_ID"]),
        )


def compute_dtype(name: str) -> jnp.dtype:
    """The compute type of `config.train.dtype`: "auto" is bfloat16 on GPU and TPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(
            f"config.train.dtype is {name!r}; expected 'float32', 'bfloat16' or 'auto'."
        )
    return jnp.dtype(name)


def check_batch_size(name: str, size: int, num_devices: int) -> None:
    """UserError unless the global batch size is positive and divisible by the devices."""
    if size < 1 or size % num_devices:
        raise UserError(
            f"{name} is {size}, but there are {num_devices} devices and each takes the same number "
            f"of images. Use a multiple of {num_devices}, for example "
            f"{max(1, round(size / num_devices)) * num_devices}."
        )


def replicate(tree, devices: list[jax.Device]):
    """The pytree on every device, as the pmapped step wants what it does not split.

    Placed once, arrays do not travel again at each step.
    """
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batches(
    batches: Iterable[dict[str, np.ndarray]], devices: list[jax.Device], ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Batches on the devices, their first axis split over them: [B, ...] -> [N, B/N, ...].

    The transfer of the next `ahead` batches is started before they are asked for.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    waiting: list[dict[str, jax.Array]] = []
    for batch in batches:
        split = {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}
        waiting.append(jax.device_put(split, sharding))
        if len(waiting) > ahead:
            yield waiting.pop(0)
    yield from waiting
