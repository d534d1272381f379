"""Devices of a run: compute type, compilation cache, and how arrays get onto them."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sapl_jax.errors import UserError

AXIS = "data"  # The mapped axis: one replica for each device.


def use_compilation_cache() -> None:
    """Turns the cache on, in JAX_COMPILATION_CACHE_DIR or by default ~/.cache/sapl_jax/xla.

    Small programs are kept as well: a start compiles dozens of them besides the step.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sapl_jax" / "xla"))
    if os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS") is None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compute_dtype(name: str) -> jnp.dtype:
    """The compute type of `config.train.dtype`: "auto" is bfloat16 where the hardware has it.

    That is on TPUs and on GPUs from Ampere (compute capability 8) or AMD's MI200 on.
    """
    if name == "auto":
        name = "bfloat16" if all(map(_has_bfloat16, jax.local_devices())) else "float32"
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
        return capability.startswith(("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12"))
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
    return jax.device_put(tree, _sharding(devices))


def _sharding(devices: list[jax.Device], *axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(*axes))


def split_batch(function: Callable, devices: list[jax.Device]) -> jax.stages.Wrapped:
    """`function`(weights, *arrays) compiled so that each device runs it on its part.

    Arrays and results have the batch in front; one that the devices cannot share equally is run
    whole on each. Left to the compiler, attention by heads would gather the batch on each device.
    """
    mesh = Mesh(np.asarray(devices), (AXIS,))

    def run(weights: Any, *arrays: jax.Array) -> Any:
        shared = PartitionSpec()
        split = PartitionSpec(AXIS) if len(arrays[0]) % mesh.size == 0 else shared
        specs: dict[str, Any] = {"in_specs": (shared, *[split] * len(arrays)), "out_specs": split}
        return jax.shard_map(function, mesh=mesh, check_vma=False, **specs)(weights, *arrays)

    return jax.jit(run)


def stop_flags(devices: list[jax.Device]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What goes with every batch: no request to stop, and one. Placed once, so they are free."""
    go = np.zeros(len(devices), np.float32)
    return jax.device_put(({"stop": go}, {"stop": go + 1}), _sharding(devices, AXIS))


def shard_batches(
    batches: Iterable[dict[str, np.ndarray]], devices: list[jax.Device]
) -> Iterator[dict[str, jax.Array]]:
    """Batches on the devices, their first axis split over them: [B, ...] -> [N, B/N, ...].

    The transfer of the next two batches is started before they are asked for.
    """
    waiting: list[dict[str, jax.Array]] = []
    sharding = _sharding(devices, AXIS)
    for batch in batches:
        split = {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}
        waiting.append(jax.device_put(split, sharding))
        if len(waiting) > 2:
            yield waiting.pop(0)
    yield from waiting
