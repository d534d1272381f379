"""CLIP: both towers, the joint space, and the public encoders."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.blocks import Linear
from sapl_jax.clip.config import CLIPConfig, LoRAConfig
from sapl_jax.clip.towers import TextTower, VisionTower


@dataclasses.dataclass(frozen=True)
class CLIPSource:
    """Where weights came from, for logs, checkpoints and reports.

    Attributes:
        name: folder, hub name or "random:...".
        revision: hub commit or None.
        file: the weights file.
        sha256: of that file, in hex.
    """

    name: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None


class CLIP(nnx.Module):
    """CLIP with randomly initialised weights; `load_clip` gives one with weights from a file.

    All parameters are `nnx.Param` (frozen) except attached LoRA factors (`LoRAParam`).
    `lora_config` says which LoRA is attached, None without one.
    """

    def __init__(self, config: CLIPConfig, source: CLIPSource, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.source = source
        self.dtype = jnp.dtype(dtype)
        self.lora_config: LoRAConfig | None = None
        width = config.vision.hidden_size
        self.vision = VisionTower(config.vision, dtype, rngs)
        self.visual_projection = Linear(
            width, config.projection_dim, width**-0.5, dtype, rngs, bias=False
        )
        self.text = TextTower(config.text, config.projection_dim, dtype, rngs)
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

    def project_image(self, x: jax.Array) -> jax.Array:
        """Hidden states into the joint space: [..., D] -> [..., projection_dim], not normalised.

        The post-layernorm is applied first, as CLIP does for the last CLS.
        """
        return self.visual_projection(self.vision.post_norm(x))

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Image embeddings: normalised pixels [B, H, W, 3] -> unit float32 [B, projection_dim]."""
        return _encode_image(*nnx.split(self), pixels)

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Text embeddings: int ids [B, N], N <= 77 -> L2-normalised float32 [B, projection_dim]."""
        return _encode_text(*nnx.split(self), ids)

    def eot_positions(self, ids: jax.Array) -> jax.Array:
        """Where each text ends: int [B, N] -> int [B].

        Old configurations (eos_token_id 2) mean the largest id, newer ones the first EOT.
        """
        eos = self.config.text.eos_token_id
        return jnp.argmax(ids if eos == 2 else ids == eos, axis=-1)


# Compiled once for each shape, so that calls outside a jit do not trace the blocks every time.
@functools.partial(jax.jit, static_argnums=0)
def _encode_image(graphdef: nnx.GraphDef[CLIP], state: nnx.State, pixels: jax.Array) -> jax.Array:
    clip = nnx.merge(graphdef, state)
    return _unit(clip.visual_projection(clip.vision(pixels).pooled))


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(graphdef: nnx.GraphDef[CLIP], state: nnx.State, ids: jax.Array) -> jax.Array:
    clip = nnx.merge(graphdef, state)
    return _unit(clip.text.encode(clip.text.embed(ids), clip.eot_positions(ids)))


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
