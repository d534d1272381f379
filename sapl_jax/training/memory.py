"""Which results of the vision blocks the backward pass computes again: by the device's memory."""

import jax
import jax.numpy as jnp

from sapl_jax.clip.blocks import LEVELS, Recompute
from sapl_jax.clip.config import VisionConfig

# Arrays of [B, T, D] that each level keeps of a block: its input, q, k, v, the attention's output
# after its projection, and the four that the MLP's first layer is wide.
_KEPT = {"none": 9, "mlp": 5, "blocks": 1}
# Of the memory that JAX may use; what is not modelled (copies, fragments) has the rest.
_SHARE = 0.85


def choose_recompute(
    remat: str,
    config: VisionConfig,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    devices: list[jax.Device],
) -> Recompute:
    """What `config.train.remat` means on a device.

    Args:
        remat: a name in `LEVELS`, or "auto": the first that fits into the device's memory ("none"
            where that is not known, as on CPUs).
        config: of the vision tower.
        shape: of this device's share of a batch of pictures, [B, C, C, 3].
        dtype: compute type.
        devices: those that train, of one kind; the memory of one of this process's is asked.
    """
    here = jax.process_index()
    device = next((d for d in devices if d.process_index == here), devices[0])
    auto = remat == "auto"
    level = fitting_level(config, shape, dtype, _memory_of(device)) if auto else remat
    # Compiled GPU programs copy what a scan keeps, to its stack and back: a fifth of all they move.
    return Recompute(level, unroll=device.platform in ("gpu", "cuda", "rocm"))


def fitting_level(
    config: VisionConfig, shape: tuple[int, ...], dtype: jnp.dtype, limit: float | None
) -> str:
    """The level that recomputes least among those that fit into `limit` bytes; the last otherwise.

    Within a tenth of what compilers say for ViT-L/14 (a test compares them).
    """
    if limit is None:
        return LEVELS[0]
    width, depth, size = config.hidden_size, config.num_hidden_layers, jnp.dtype(dtype).itemsize
    batch, rows, columns = shape[0], shape[1] // config.patch_size, shape[2] // config.patch_size
    tokens = 1 + rows * columns
    one = batch * tokens * width * size
    weights = 16 * depth * width**2 * size + 500e6  # Both towers, and all that trains with them.
    scores = 3 * batch * config.num_attention_heads * tokens**2 * 4 if size == 4 else 0
    for level in LEVELS:
        if weights + scores + one * (_KEPT[level] * depth + 40) <= _SHARE * limit:
            break
    return level


def _memory_of(device: jax.Device) -> float | None:
    """Bytes JAX may use there, None where that cannot be asked."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return None
