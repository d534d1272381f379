"""CLIP's vision tower: patches, position embeddings of any grid, blocks, taps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.config import VisionConfig
from sapl_jax.clip.interpolation import interpolate_positions
from sapl_jax.clip.layers import LayerNorm, normal
from sapl_jax.clip.stack import make_blocks, run_blocks
from sapl_jax.errors import UserError


class VisionFeatures(NamedTuple):
    """What the vision tower returns, in the tower's compute dtype.

    taps: [L, B, 1 + T, D], the tapped hidden states; position 0 is CLS, then patches row by row.
    pooled: [B, D], post-layernorm of the last block's CLS.
    """

    taps: jax.Array
    pooled: jax.Array


class VisionTower(nnx.Module):
    """The vision transformer of CLIP."""

    def __init__(self, config: VisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.class_embedding = normal(rngs, (width,), width**-0.5, dtype)
        self.patch_kernel = normal(rngs, (patch, patch, 3, width), 0.02, dtype)
        self.positions = normal(rngs, (1 + config.grid**2, width), 0.02, dtype)
        self.pre_norm = LayerNorm(width, config.layer_norm_eps, dtype)
        self.blocks = make_blocks(config, dtype, rngs)
        self.post_norm = LayerNorm(width, config.layer_norm_eps, dtype)

    def __call__(
        self,
        pixels: jax.Array,
        taps: tuple[int, ...] = (),
        remat: bool = False,
        values: bool = False,
    ) -> VisionFeatures:
        """Features of normalised pictures.

        Args:
            pixels: [B, H, W, 3] float, CLIP's mean and std applied. Any H, W of at least one
                patch; pixels beyond the last whole patch are not used (as in the original).
            taps: hidden states wanted: k is the output of block k, 0 the input of the first.
            remat: recompute each block in the backward pass, for less memory.
            values: tap the V-V path (`run_blocks`).

        Raises:
            UserError: a tap is beyond the depth, or the picture is smaller than a patch.
        """
        x = self.embed(pixels)
        tapped, last = run_blocks(
            self.blocks, x, taps, causal=False, remat=remat, values=values
        )
        stacked = jnp.stack(tapped) if tapped else jnp.zeros((0, *x.shape), x.dtype)
        return VisionFeatures(taps=stacked, pooled=self.post_norm(last[:, 0]))

    def embed(self, pixels: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, 1 + T, D]: the input of the first block (hidden state 0)."""
        patch = self.config.patch_size
        if pixels.ndim != 4 or pixels.shape[3] != 3 or min(pixels.shape[1:3]) < patch:
            raise UserError(
                f"found pixels of shape {tuple(pixels.shape)}, expected [B, H, W, 3] with H and W "
                f"at least one patch ({patch})"
            )
        batch, rows, columns = pixels.shape[0], pixels.shape[1] // patch, pixels.shape[2] // patch
        # A convolution whose stride is its kernel is one matrix product over the patches.
        x = pixels[:, : rows * patch, : columns * patch].astype(self.dtype)
        x = x.reshape(batch, rows, patch, columns, patch, 3).swapaxes(2, 3)
        x = x.reshape(batch, rows * columns, patch * patch * 3)
        x = x @ self.patch_kernel[...].reshape(patch * patch * 3, -1)
        cls = jnp.broadcast_to(self.class_embedding[...], (batch, 1, x.shape[-1]))
        positions = interpolate_positions(self.positions[...], (rows, columns))
        return self.pre_norm(jnp.concatenate([cls, x], axis=1) + positions.astype(self.dtype))
