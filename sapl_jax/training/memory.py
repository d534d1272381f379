"""Memory of a run: what the backward pass computes again to save it, and giving it back."""

import ctypes
from contextlib import suppress

import jax
import jax.numpy as jnp

from sapl_jax.clip.blocks import LEVELS, Recompute
from sapl_jax.clip.config import VisionConfig
from sapl_jax.clip.towers import VisionTower

# Arrays of [B, T, D] that each level keeps of a block: its input, q, k, v, the attention's output
# after its projection, and the four that the MLP's first layer is wide.
_KEPT = {"none": 9, "mlp": 5, "blocks": 1}
# Of the memory that JAX may use; what is not modelled (copies, fragments) has the rest.
_SHARE = 0.85


def choose_recompute(
    remat: str, tower: VisionTower, shape: tuple[int, ...], devices: list[jax.Device]
) -> Recompute:
    """What `config.train.remat` means on a device; "auto" is the `fitting_level` of its memory.

    `shape`: of a device's share of a batch of pictures, [B, C, C, 3]. `devices`: those that train,
    of one kind; the memory of one of this process's is asked.
    """
    device = next((d for d in devices if d.process_index == jax.process_index()), devices[0])
    if remat == "auto":
        try:
            limit = (device.memory_stats() or {}).get("bytes_limit")
        except (jax.errors.JaxRuntimeError, NotImplementedError):
            limit = None
        remat = fitting_level(tower.config, shape, tower.dtype, limit)
    # Compiled GPU programs copy what a scan keeps, to its stack and back: a fifth of all they move.
    return Recompute(remat, unroll=device.platform in ("gpu", "cuda", "rocm"))


def fitting_level(
    config: VisionConfig, shape: tuple[int, ...], dtype: jnp.dtype, limit: float | None
) -> str:
    """The level that recomputes least among those that fit into `limit` bytes; the last otherwise.

    "mlp" where the limit is not known, as on CPUs: a tenth more products for a seventh less memory.
    Within a tenth of what compilers say for ViT-L/14 (a test compares them).
    """
    if limit is None:
        return "mlp"
    width, depth, size = config.hidden_size, config.num_hidden_layers, jnp.dtype(dtype).itemsize
    tokens = 1 + (shape[1] // config.patch_size) * (shape[2] // config.patch_size)
    one = shape[0] * tokens * width * size
    weights = 16 * depth * width**2 * size + 500e6  # Both towers, and all that trains with them.
    scores = 3 * shape[0] * config.num_attention_heads * tokens**2 * 4 if size == 4 else 0
    for level in LEVELS:
        if weights + scores + one * (_KEPT[level] * depth + 40) <= _SHARE * limit:
            break
    return level


def give_back_memory() -> None:
    """Returns to the system what malloc keeps for reuse: after compiling, hundreds of MB.

    Where the C library is not glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
