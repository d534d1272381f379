"""CLIP: both towers, the joint space, the public encoders, and LoRA attached or merged."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.blocks import Linear, LoRAParam, l2_normalize
from sapl_jax.clip.config import LORA_TARGETS, CLIPConfig, LoRAConfig
from sapl_jax.clip.towers import TextTower, VisionTower

RANDOM = "random:"  # before the name of CLIP's configuration, in place of weights


@dataclasses.dataclass(frozen=True)
class CLIPSource:
    """Where weights came from, for logs, checkpoints and reports."""

    name: str  # folder, hub name or "random:..."
    revision: str | None = None  # hub commit
    file: str | None = None  # of the weights
    sha256: str | None = None  # of that file, in hex


class CLIP(nnx.Module):
    """CLIP with randomly initialised weights; `load_clip` gives one with weights from a file.

    Without `rngs` what would be drawn is zero: for shapes alone, quickly traced.

    All parameters are `nnx.Param` (frozen) except attached LoRA factors (`LoRAParam`).
    `lora_config` says which LoRA is attached, None without one.
    """

    def __init__(
        self, config: CLIPConfig, source: CLIPSource, dtype: jnp.dtype, rngs: nnx.Rngs | None
    ):
        self.config = config
        self.source = source
        self.dtype = jnp.dtype(dtype)
        self.lora_config: LoRAConfig | None = None
        width = config.vision.hidden_size
        self.vision = VisionTower(config.vision, dtype, rngs)
        joint = config.projection_dim
        self.visual_projection = Linear(width, joint, width**-0.5, dtype, rngs, bias=False)
        self.text = TextTower(config.text, joint, dtype, rngs)
        self.logit_scale = nnx.Param(jnp.float32(config.logit_scale_init_value))

    @property
    def sot_id(self) -> int:
        """The id of the start-of-text token."""
        text = self.config.text
        return text.vocab_size - 2 if text.eos_token_id == 2 else text.bos_token_id

    @property
    def eot_id(self) -> int:
        """The id of the end-of-text token."""
        text = self.config.text
        return text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id

    # Compiled once for each shape, so that calls outside a jit do not trace the blocks every time.
    @nnx.jit
    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Image embeddings: normalised pixels [B, H, W, 3] -> unit float32 [B, projection_dim]."""
        return l2_normalize(self.visual_projection(self.vision(pixels).pooled))

    @nnx.jit
    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Text embeddings: int ids [B, N], N <= 77 -> L2-normalised float32 [B, projection_dim]."""
        return l2_normalize(self.text.encode(self.text.embed(ids), self.eot_positions(ids)))

    def eot_positions(self, ids: jax.Array) -> jax.Array:
        """Where each text ends: int [B, N] -> int [B].

        Old configurations (eos_token_id 2) mean the largest id, newer ones the first EOT.
        """
        eos = self.config.text.eos_token_id
        return jnp.argmax(ids if eos == 2 else ids == eos, axis=-1)


def add_lora(clip: CLIP, config: LoRAConfig, seed: int) -> None:
    """Attaches LoRA to the vision tower's blocks, in place. It adds exactly nothing at first.

    A [depth, in, rank] is drawn as PEFT does (kaiming_uniform with a = sqrt 5), B is zero; both
    float32. Seeded by `seed` and the target's name, so other targets do not change the draw.
    """
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
