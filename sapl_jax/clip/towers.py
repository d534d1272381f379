"""CLIP's vision and text towers, and position embeddings for any grid of patches."""

import functools
from collections.abc import Collection
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from sapl_jax.clip.attention import attention, neighbour_attention
from sapl_jax.clip.blocks import (
    KEEP,
    Attend,
    Linear,
    Recompute,
    layer_norm,
    make_blocks,
    normal,
    run_blocks,
)
from sapl_jax.clip.config import TextConfig, VisionConfig


@functools.cache
def bicubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """The matrix [n_out, n_in] float32 that resamples a line of `n_in` values to `n_out`.

    Same as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` along one axis:
    no anti-aliasing, borders repeated.
    """
    # OpenCV's coefficient is PyTorch's, -0.75. jax.image uses -0.5, which gives other values.
    one = np.eye(n_in, dtype=np.float32)
    return cv2.resize(one, (n_in, n_out), interpolation=cv2.INTER_CUBIC)


def interpolate_positions(positions: Array, grid: tuple[int, int]) -> Array:
    """Position embeddings for a grid of (rows, columns): float32 [1 + rows * columns, D].

    `positions` [1 + n * n, D]: the class position first, then an n x n grid row by row.
    """
    positions = positions.astype(jnp.float32)
    side = round((positions.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].reshape(side, side, -1)
    rows, columns = bicubic_matrix(side, grid[0]), bicubic_matrix(side, grid[1])
    resized = jnp.einsum("ri,cj,ijd->rcd", rows, columns, square, precision="highest")
    return jnp.concatenate([positions[:1], resized.reshape(grid[0] * grid[1], -1)])


class VisionFeatures(NamedTuple):
    """What the vision tower returns, in the tower's compute dtype."""

    taps: Array  # [L, B, 1 + T, D], the tapped hidden states; CLS, then patches row by row
    pooled: Array  # [B, D], post-layernorm of the last block's CLS


class VisionTower(nnx.Module):
    """The vision transformer of CLIP."""

    def __init__(self, config: VisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        width, patch = config.hidden_size, config.patch_size
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.class_embedding = normal(rngs, (width,), width**-0.5, dtype)
        self.patch_kernel = normal(rngs, (patch, patch, 3, width), 0.02, dtype)
        self.positions = normal(rngs, (1 + (config.image_size // patch) ** 2, width), 0.02, dtype)
        self.pre_norm = layer_norm(width, config.layer_norm_eps, dtype)
        self.blocks = make_blocks(config, dtype, rngs)
        self.post_norm = layer_norm(width, config.layer_norm_eps, dtype)

    def __call__(
        self,
        pixels: Array,
        taps: tuple[int, ...] = (),
        recompute: Recompute = KEEP,
        values: bool = False,
        reach: int = 0,
    ) -> VisionFeatures:
        """Features of normalised pictures.

        Args:
            pixels: [B, H, W, 3] float, CLIP's mean and std applied. Any H, W of at least one
                patch; pixels beyond the last whole patch are not used (as in the original).
            taps, recompute, values: as in `run_blocks`.
            reach: patches see only patches so near (`neighbour_attention`); 0: everything.
        """
        x = self.embed(pixels)
        attend: Attend = functools.partial(attention, causal=False)
        if reach:
            patch = self.config.patch_size
            grid = pixels.shape[1] // patch, pixels.shape[2] // patch
            attend = functools.partial(neighbour_attention, grid=grid, reach=reach)
        tapped, last = run_blocks(self.blocks, x, taps, attend, recompute, values)
        stacked = jnp.stack(tapped) if tapped else jnp.zeros((0, *x.shape), x.dtype)
        return VisionFeatures(taps=stacked, pooled=self.post_norm(last[:, 0]))

    def embed(self, pixels: Array) -> Array:
        """[B, H, W, 3] -> [B, 1 + T, D]: the input of the first block (hidden state 0)."""
        patch = self.config.patch_size
        batch, rows, columns = pixels.shape[0], pixels.shape[1] // patch, pixels.shape[2] // patch
        # A convolution whose stride is its kernel is one matrix product over the patches.
        x = pixels[:, : rows * patch, : columns * patch].astype(self.dtype)
        x = x.reshape(batch, rows, patch, columns, patch, 3).swapaxes(2, 3)
        x = x.reshape(batch, rows * columns, patch * patch * 3)
        x = x @ self.patch_kernel[...].reshape(patch * patch * 3, -1)
        cls = jnp.broadcast_to(self.class_embedding[...], (batch, 1, x.shape[-1]))
        positions = interpolate_positions(self.positions[...], (rows, columns))
        return self.pre_norm(jnp.concatenate([cls, x], axis=1) + positions.astype(self.dtype))


class TextTower(nnx.Module):
    """The causal text transformer of CLIP with its projection into the joint space."""

    def __init__(
        self, config: TextConfig, projection_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs | None
    ):
        width = config.hidden_size
        self.dtype = jnp.dtype(dtype)
        self.token_embedding = normal(rngs, (config.vocab_size, width), 0.02, dtype)
        self.kept: tuple[int, ...] | None = None  # The ids, ascending, of its rows; None: all.
        self.positions = normal(rngs, (config.max_position_embeddings, width), 0.02, dtype)
        self.blocks = make_blocks(config, dtype, rngs)
        self.final_norm = layer_norm(width, config.layer_norm_eps, dtype)
        self.projection = Linear(width, projection_dim, width**-0.5, dtype, rngs, bias=False)

    def keep(self, ids: Collection[int]) -> None:
        """Keeps the embeddings of these tokens alone, their values or shapes; call it once."""
        self.kept = tuple(sorted(ids))
        table, rows = self.token_embedding.get_value(), np.asarray(self.kept)
        abstract = isinstance(table, jax.ShapeDtypeStruct)
        self.token_embedding.set_value(
            jax.eval_shape(lambda t: t[rows], table) if abstract else table[rows]
        )

    def embed(self, ids: Array) -> Array:
        """Token embeddings without positions: int [..., N] -> [..., N, d_t]."""
        if self.kept is not None:
            ids = jnp.searchsorted(jnp.asarray(self.kept), ids)
        return self.token_embedding[...][ids]

    def encode(self, embeddings: Array, eot: Array | int) -> Array:
        """Text features [B, projection_dim] in the tower's dtype, not normalised.

        Args:
            embeddings: [B, N, d_t] without positions; N at most `max_position_embeddings`.
                Encode only the tokens that exist: the tower is causal, so padding changes nothing.
            eot: position of the end-of-text token, an int or int [B].
        """
        x = embeddings.astype(self.dtype) + self.positions[...][: embeddings.shape[1]]
        attend = functools.partial(attention, causal=True)
        _, last = run_blocks(self.blocks, x, (), attend, recompute=KEEP, values=False)
        eot = jnp.broadcast_to(jnp.asarray(eot), last.shape[:1])
        pooled = jnp.take_along_axis(last, eot[:, None, None], axis=1)[:, 0]
        return self.projection(self.final_norm(pooled))
