"""Devices of a run: which ones, compute type, compilation cache, and how arrays get onto them."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sapl_jax.errors import UserError
from sapl_jax.processes import idle_gpus, local_device_ids

log = logging.getLogger(__name__)


def use_compilation_cache() -> None:
    """Turns the cache on, in JAX_COMPILATION_CACHE_DIR or by default ~/.cache/sapl_jax/xla.

    Small programs are kept as well: a start compiles dozens of them besides the step.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sapl_jax" / "xla"))
    if os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS") is None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


AXIS = "data"  # The mapped axis: one replica for each device.
HEARTBEAT_S = 30
# How long a process that is done waits for the others to be; they get there together.
SHUTDOWN_S = 60


def start_runtime() -> None:
    """Joins the other processes of a multi-host run and turns on the compilation cache.

    Several processes: `launch.sh` sets SAPL_COORDINATOR, SAPL_PROCESS_COUNT and SAPL_PROCESS_ID; on
    TPU slices and under SLURM, Open MPI and Kubernetes JAX finds them itself when SAPL_COORDINATOR
    is "auto". In both forms a process drives its host's GPUs or its share (`local_device_ids`).
    A process that is lost is noticed HEARTBEAT_S seconds later at the latest.
    """
    use_compilation_cache()
    coordinator = os.environ.get("SAPL_COORDINATOR", "")
    waits: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_S,
        "shutdown_timeout_seconds": SHUTDOWN_S,
    }
    if coordinator:
        waits["local_device_ids"] = local_device_ids()
    if coordinator == "auto":
        jax.distributed.initialize(**waits)
    elif coordinator:
        jax.distributed.initialize(coordinator, *_process_numbers(), **waits)


def _process_numbers() -> tuple[int, int]:
    names = ("SAPL_PROCESS_COUNT", "SAPL_PROCESS_ID")
    values = [os.environ.get(name, "") for name in names]
    if not all(value.isdigit() for value in values) or int(values[1]) >= int(values[0]):
        found = ", ".join(f"{n}={v!r}" for n, v in zip(names, values, strict=True))
        raise UserError(
            f"SAPL_COORDINATOR is set, but {found}: expected the number of processes, and the "
            "number of this one, counted from 0. launch.sh sets them."
        )
    return int(values[0]), int(values[1])


def report_devices(dtype: jnp.dtype) -> None:
    """Says which devices this process drives, and warns of GPUs of its host that stay idle."""
    local = jax.local_devices()
    log.info(
        "process %d of %d drives %d of %d %s device(s), %s", jax.process_index() + 1,
        jax.process_count(), len(local), jax.device_count(), local[0].device_kind, dtype,
    )  # fmt: skip
    idle = idle_gpus(len(local) if local[0].platform == "gpu" else 0)
    if idle and os.environ.get("JAX_PLATFORMS") != "cpu":
        log.warning(
            "%d of the GPUs of this host are idle. Is JAX's CUDA plugin installed (./launch.sh "
            "setup), and is there one process for each host, or one for each GPU?", idle,
        )  # fmt: skip


@contextmanager
def leave_on_error() -> Iterator[None]:
    """In a run of several processes, ends this one at once on any error, and thereby the others.

    JAX would wait at exit for the other processes, which wait for this one. Status 2 with one
    message for a UserError and for a lost process, 130 for Ctrl-C, 1 with a traceback otherwise.
    A run of one process is left to the usual handling of errors.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        status = 2
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, jax.errors.JaxRuntimeError):
            print(
                f"error: Process {jax.process_index()} lost contact with another process of this "
                f"run, or cannot go on ({str(error).splitlines()[0][:200]}). The checkpoints are "
                "kept: see the output of the other processes, and start all of them again.",
                file=sys.stderr,
            )
        elif isinstance(error, KeyboardInterrupt):
            status = 130
        else:
            status = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def compute_dtype(name: str) -> jnp.dtype:
    """The compute type of `config.train.dtype`: "auto" is bfloat16 where the hardware has it.

    That is on TPUs and on GPUs from Ampere (compute capability 8) or AMD's MI200 on.
    """
    if name == "auto":
        has_it = all(map(_has_bfloat16, jax.local_devices()))
        name = "bfloat16" if has_it else "float32"
    if name not in ("float32", "bfloat16"):
        raise UserError(
            f"config.train.dtype is {name!r}; expected 'float32', 'bfloat16' or 'auto'."
        )
    return jnp.dtype(name)


def _has_bfloat16(device: jax.Device) -> bool:
    if device.platform != "gpu":
        return device.platform != "cpu"
    capability = str(device.compute_capability)  # "8.6", or "gfx90a" on AMD's
    if capability.startswith("gfx"):
        return capability.startswith(("gfx9", "gfx11", "gfx12")) and capability >= "gfx90a"
    return float(capability) >= 8.0


def check_batch_size(name: str, size: int, num_devices: int) -> None:
    """UserError unless the global batch size is positive and divisible by the devices."""
    if size < 1 or size % num_devices:
        raise UserError(
            f"{name} is {size}, but there are {num_devices} devices and each takes the same number "
            f"of images. Use a multiple of {num_devices}, for example "
            f"{max(1, round(size / num_devices)) * num_devices}."
        )


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """The pytree on every device, as the pmapped step wants what it does not split.

    Placed once, arrays do not travel again at each step.
    """
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_batch(function: Callable, mesh: Mesh) -> jax.stages.Wrapped:
    """`function`(weights, *arrays) compiled so that each device of a mesh runs it on its part.

    Arrays and results have the batch in front; one that the devices cannot share equally is run
    whole on each. Left to the compiler, attention by heads would gather the batch on each device.
    """

    def run(weights: Any, *arrays: jax.Array) -> Any:
        shared = PartitionSpec()
        split = PartitionSpec(AXIS) if len(arrays[0]) % mesh.size == 0 else shared
        in_specs = (shared, *[split] * len(arrays))
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False
        )
        return mapped(weights, *arrays)

    return jax.jit(run)


def stop_flags(devices: list[jax.Device]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What goes with every batch: no request to stop, and one. Placed once, so they are free."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    go, stop = (
        {"stop": jax.device_put(np.full(len(devices), value, np.float32), sharding)}
        for value in (0.0, 1.0)
    )
    return go, stop


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
