"""Low-rank adaptation (LoRA) of the vision tower's linear layers: attach, and merge."""

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.blocks import LoRAParam
from sapl_jax.clip.config import LORA_TARGETS, LoRAConfig
from sapl_jax.clip.model import CLIP
from sapl_jax.errors import UserError


def add_lora(clip: CLIP, config: LoRAConfig, seed: int) -> None:
    """Attaches LoRA to the vision tower's blocks, in place. It adds exactly nothing at first.

    A [depth, in, rank] is drawn as PEFT does (kaiming_uniform with a = sqrt 5), B is zero; both
    float32. Seeded by `seed` and the target's name, so other targets do not change the draw.

    Raises:
        UserError: LoRA is attached already.
    """
    if clip.lora_config is not None:
        raise UserError("this CLIP has LoRA attached already; merge it first (merge_lora)")
    init = jax.nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=0
    )
    for target in config.targets:
        linear = getattr(clip.vision.blocks, target)
        depth, n_in, n_out = linear.kernel.shape
        key = jax.random.fold_in(jax.random.key(seed), LORA_TARGETS.index(target))
        linear.lora_a = LoRAParam(init(key, (depth, n_in, config.rank), jnp.float32))
        linear.lora_b = LoRAParam(jnp.zeros((depth, config.rank, n_out), jnp.float32))
        linear.lora_scale = config.alpha / config.rank
    clip.lora_config = config


def merge_lora(clip: CLIP) -> CLIP:
    """A CLIP without LoRA and with the same outputs: each W becomes W + A B * alpha / rank.

    `clip` is unchanged; weights that had no LoRA are shared with it. With bfloat16 weights the sum
    is rounded to bfloat16, so outputs agree to that rounding only.
    """
    graphdef, state = nnx.split(clip)
    # The state is copied (the arrays are not) so that setting a merged kernel leaves `clip` alone.
    merged = nnx.merge(graphdef, jax.tree.map(lambda array: array, state))
    for target in clip.lora_config.targets if clip.lora_config else ():
        linear = getattr(merged.vision.blocks, target)
        update = jnp.einsum("lir,lro->lio", linear.lora_a[...], linear.lora_b[...])
        kernel = linear.kernel[...]
        total = kernel.astype(jnp.float32) + update * linear.lora_scale
        linear.kernel.set_value(total.astype(kernel.dtype))
        linear.lora_a = linear.lora_b = None
        linear.lora_scale = 0.0
    merged.lora_config = None
    return merged
