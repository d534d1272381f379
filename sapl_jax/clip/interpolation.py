"""Bicubic interpolation of position embeddings, as PyTorch and the Hugging Face library do it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# PyTorch's cubic convolution coefficient. jax.image uses -0.5, which gives other values.
_CUBIC_A = -0.75


@functools.cache
def bicubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """The matrix [n_out, n_in] float32 that resamples a line of `n_in` values to `n_out`.

    Same as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` along one axis:
    no anti-aliasing, borders repeated.
    """
    centre = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((n_out, n_in))
    for offset in (-1, 0, 1, 2):
        source = np.clip(first + offset, 0, n_in - 1)
        weight = _cubic(np.abs(centre - (first + offset)))
        np.add.at(matrix, (np.arange(n_out), source), weight)
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    a, x = _CUBIC_A, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def interpolate_positions(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position embeddings for a grid of patches of any size.

    Args:
        positions: [1 + n * n, D], the class position first, then an n x n grid row by row.
        grid: (rows, columns) wanted.

    Returns:
        [1 + rows * columns, D] float32.
    """
    positions = positions.astype(jnp.float32)
    side = round((positions.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].reshape(side, side, -1)
    rows, columns = bicubic_matrix(side, grid[0]), bicubic_matrix(side, grid[1])
    resized = jnp.einsum("ri,cj,ijd->rcd", rows, columns, square, precision="highest")
    return jnp.concatenate([positions[:1], resized.reshape(grid[0] * grid[1], -1)])
